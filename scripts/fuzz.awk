# One line of figures out of libFuzzer's log; exits with 1 if it found something.
/ cov: / {
    for (i = 1; i < NF; i++) {
        if ($i == "cov:") cov = $(i + 1)
        if ($i == "corp:") corpus = $(i + 1)
    }
    if (first == "") first = cov
}
/stat::number_of_executed_units/ { runs = $2; ended = 1 }
/stat::peak_rss_mb/ { rss = $2 }
/SUMMARY|ERROR: libFuzzer/ { bad = 1 }
END {
    bad = bad || !ended
    printf "%-12s %13d %10d %6d %7s %12d %12d  %s\n", n, runs, first, cov, \
        substr(corpus, 1, index(corpus "/", "/") - 1), rss, h, bad ? "FAILED" : "good"
    exit bad
}
