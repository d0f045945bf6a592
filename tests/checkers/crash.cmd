set scroll off
sys > crash.sys
bt > crash.bt
ps > crash.ps
log > crash.log
vm @PID@ > crash.vm
quit
