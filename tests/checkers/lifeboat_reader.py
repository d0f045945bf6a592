#!/usr/bin/python3
"""Reads a pulled Lifeboat dump; written from capturer/format/FORMAT.md alone, as a check
of that page and of the Rust reader. Usage: lifeboat_reader.py DUMP [-i KEY] [--scan]
[--log] [--pages]. Prints, for each space of pages, the SHA-256 over (page u64, class u8,
contents) of all pages in order and how many are of each class; for each text its SHA-256.
Exit code 1 and one line if anything is not as FORMAT.md says it must be."""
import argparse, base64, hashlib, hmac, struct, sys, zlib
import zstandard
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

DATA = 16384
KINDS = {1: "log", 2: "notes", 3: "meta", 4: "memory", 5: "swap", 6: "trailer", 7: "index"}

class Bad(Exception):
    pass

def need(ok, what):
    if not ok:
        raise Bad(what)

def block(raw, magic, used, what):
    """A structure of one block: its version."""
    need(len(raw) == 4096 and raw[:8] == magic, f"{what}: magic bytes not found")
    need(zlib.crc32(raw[:4092]) == struct.unpack_from("<I", raw, 4092)[0], f"{what}: checksum")
    version = struct.unpack_from("<I", raw, 8)[0]
    need(version in (1, 2, 3), f"{what}: version {version}")
    need(not any(raw[used:4092]), f"{what}: bytes that no field takes")
    return version

# age-encryption.org/v1, X25519 only
def hkdf(secret, salt, info):
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=info).derive(secret)

def secret_of(line):
    """The 32 bytes of an AGE-SECRET-KEY-1 line (bech32 without its check)."""
    digits = ["qpzry9x8gf2tvdw0s3jn54khce6mua7l".index(c) for c in line.strip().lower().split("1", 1)[1][:-6]]
    n = 0
    for d in digits:
        n = n << 5 | d
    return (n >> (len(digits) * 5 - 256)).to_bytes(32, "big")

def b64(text):
    return base64.b64decode(text + b"=" * (-len(text) % 4))

def unwrap(age, secrets):
    """The plaintext of an age file, or None if no secret fits."""
    end = age.index(b"\n---") + 4
    lines = age[:end].split(b"\n")[:-1]
    need(lines[0] == b"age-encryption.org/v1", "not an age file")
    mac, payload = age[end + 1:].split(b"\n", 1)
    stanzas, at = [], 1
    while at < len(lines):
        args, body, at = lines[at].split()[1:], b"", at + 1
        while True:
            body, at, more = body + lines[at], at + 1, len(lines[at]) == 64
            if not more:
                break
        stanzas.append((args, b64(body)))
    for secret in map(X25519PrivateKey.from_private_bytes, secrets):
        own = secret.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        for args, body in stanzas:
            if args[0] != b"X25519":
                continue
            share = b64(args[1])
            key = hkdf(secret.exchange(X25519PublicKey.from_public_bytes(share)), share + own, b"age-encryption.org/v1/X25519")
            try:
                file_key = ChaCha20Poly1305(key).decrypt(bytes(12), body, None)
            except InvalidTag:
                continue
            good = hmac.new(hkdf(file_key, None, b"header"), age[:end], hashlib.sha256).digest()
            need(hmac.compare_digest(good, b64(mac)), "age file: MAC")
            sealer = ChaCha20Poly1305(hkdf(file_key, payload[:16], b"payload"))
            return sealer.decrypt(bytes(11) + b"\1", payload[16:], None)  # short: one piece
    return None

def key_entries(area):
    """(generation, [(kind, age file)]) of a key area."""
    need(zlib.crc32(area[:12284]) == struct.unpack_from("<I", area, 12284)[0], "key area: checksum")
    generation, count, used, reserved = struct.unpack_from("<QIIQ", area, 8)
    need(reserved == 0, "key area: reserved")
    if area[:8] == b"LBKEYS\0\x01":
        need(count <= 32 and used <= 12284 - 288, "key area: counts")
        need(not any(area[32 + 8 * count:288]) and not any(area[288 + used:12284]), "key area: not zero")
        return generation, [(1, area[288:288 + used])]
    need(area[:8] == b"LBKEYS\0\x02" and count <= 32 and used <= 12252, "key area: magic or counts")
    need(not any(area[32 + used:12284]), "key area: not zero")
    out, at = [], 32
    while at < 32 + used:
        kind, zero, prints, length = struct.unpack_from("<BBHI", area, at)
        start = at + 8 + 8 * prints
        at = start + length + -length % 8
        need(kind in (1, 2) and zero == 0 and at <= 32 + used and not any(area[start + length:at]), "key area: entry")
        out.append((kind, area[start:start + length]))
    need(len(out) == count, "key area: entries")
    return generation, out

def unlz4(block, room):
    """The contents of one LZ4 block (no frame), at most `room` bytes of them."""
    out, at = bytearray(), 0

    def count(n, at):
        more = 255 if n == 15 else 0
        while more == 255:
            more, at = block[at], at + 1
            n += more
        return n, at

    try:
        while True:
            token = block[at]
            n, at = count(token >> 4, at + 1)
            need(at + n <= len(block) and len(out) + n <= room, "LZ4: literals out of bounds")
            out += block[at:at + n]
            at += n
            if at == len(block):
                return bytes(out)
            back = block[at] | block[at + 1] << 8
            n, at = count(token & 15, at + 2)
            n += 4
            need(0 < back <= len(out) and len(out) + n <= room, "LZ4: match out of bounds")
            out += (out[-back:] * (n // back + 1))[:n]  # a match may reach into what it writes
    except IndexError:
        raise Bad("LZ4: the block ends too early") from None

class Dump:
    def __init__(self, raw, secrets, scan):
        self.raw, self.key, self.notes = raw, None, []
        copies, self.commit = [0], None
        try:
            tail = raw[-4096:]
            block(tail, b"LBCOMMIT", 328, "commit record")
            self.commit = struct.unpack_from("<BBBB16sQQQQ", tail, 12)
            need(self.commit[5] == len(raw) and self.commit[8] == len(raw) - 20480, "commit record: length")
            copies.append(self.commit[8])
        except Bad as why:
            self.notes.append(f"no commit record ({why})")
        self.head = self.header(copies)
        self.id, self.end = self.head[16:32], self.commit[8] if self.commit else len(raw)
        need(self.commit is None or self.commit[4] == self.id, "commit record of another dump")
        if self.head[64]:
            self.key = AESGCM(self.data_key(copies, secrets))
            if self.commit:
                self.open_(self.key, b"cmit" + b"\xff" * 8, tail[312:328], tail[:312], "commit record")
        chunks = None if scan or not self.commit else self.indexed(self.commit[7])
        self.chunks = chunks if chunks is not None else self.scanned()
        digest = dict(self.records()).get(1)
        need(digest == hashlib.sha256(self.head).digest(), "the header was changed")

    def header(self, copies):
        for at in copies:
            try:
                head = self.raw[at:at + 4096]
                version = block(head, b"LBDUMP\0\x01", 408, "header")
                need(head[64] < 2 and not any(head[65:68]) and not any(head[76:80]), "header: field")
                need(struct.unpack_from("<II", head, 68)[0] == 4096, "header: page size")
                need(version > 1 or not any(head[376:408]), "header: reserved")
                return head
            except Bad as why:
                self.notes.append(f"header at {at}: {why}")
        raise Bad("no sound header")

    def data_key(self, copies, secrets):
        areas = []
        for at in copies:
            try:
                areas.append(key_entries(self.raw[at + 4096:at + DATA]))
            except Bad as why:
                self.notes.append(f"{why} at {at}")
        need(areas, "no sound key area")
        entries = max(areas, key=lambda a: a[0])[1]
        more = [unwrap(age, secrets) for kind, age in entries if kind == 2]
        secrets = secrets + [secret_of(line.decode()) for line in more if line]
        for kind, age in entries:
            key = unwrap(age, secrets) if kind == 1 else None
            if key:
                mine = hashlib.sha256(b"lifeboat key id v2" + key).digest()
                need(self.head[8] == 1 or mine == self.head[376:408], "the key area was replaced")
                return key
        raise Bad("no key entry opens with this identity")

    @staticmethod
    def open_(key, nonce, sealed, aad, what):
        try:
            return key.decrypt(nonce, sealed, aad)
        except InvalidTag:
            raise Bad(f"{what} does not authenticate") from None

    def chunk(self, at):
        """Header fields and plaintext of the chunk at a logical offset."""
        h = self.raw[at:at + 96]
        need(len(h) == 96 and h[:8] == b"LBCHUNK\x01" and zlib.crc32(h[:92]) == struct.unpack_from("<I", h, 92)[0], f"no chunk at {at}")
        dump, seq, kind, codec, cipher, layer, device, zero, first, pages, raw_len, stored, offset, data, missing, crc = struct.unpack_from("<16sQBBBBHHQQIIQIII", h, 8)
        need(dump == self.id and offset == at and zero == 0 and not any(h[84:92]), f"chunk at {at}: place")
        need(kind in KINDS and codec < 3 and cipher == self.head[64] and layer <= (4 if kind == 4 else 0), f"chunk at {at}: field")
        need(raw_len <= 4227076 and stored <= 4261124 and data <= min(1024, pages) and first + pages <= 1 << 52, f"chunk at {at}: bounds")
        end = at + 96 + stored + -(96 + stored) % 512
        body = self.raw[at + 96:at + 96 + stored]
        need(end <= self.end and zlib.crc32(body) == crc and not any(self.raw[at + 96 + stored:end]), f"chunk {seq} at {at}: checksum or padding")
        if self.key:
            body = self.open_(self.key, b"chnk" + struct.pack("<Q", seq), body, h[:80], f"chunk {seq} at {at}")
        if codec:
            body = unlz4(body, raw_len) if codec == 2 else zstandard.ZstdDecompressor().decompress(body, max_output_size=raw_len)
        need(len(body) == raw_len, f"chunk {seq}: length")
        return {"seq": seq, "kind": kind, "layer": layer, "device": device, "first": first, "pages": pages, "data": data, "body": body, "at": at, "end": end}

    def indexed(self, at):
        """All chunks by the index; None if it is damaged."""
        entries, found, above = [], [], self.end
        try:
            while at:
                need(at < above, "index: it points forward")
                c, above = self.chunk(at), at
                need(c["kind"] == 7, "index: another kind")
                at, first, count, zero = struct.unpack_from("<QQII", c["body"])
                need(zero == 0 and len(c["body"]) == 24 + 32 * count and count <= 4096, "index: count")
                entries[:0] = [struct.unpack_from("<QQQIBBH", c["body"], 24 + 32 * n) for n in range(count)]
                found.append(c["seq"])
            for offset, first, pages, stored, kind, layer, device in entries:
                c = self.chunk(offset)
                need((first, pages, kind, layer, device) == tuple(c[n] for n in ("first", "pages", "kind", "layer", "device")), f"index: chunk at {offset}")
                found.append(c["seq"])
            need(sorted(found) == list(range(self.commit[6])), "index: chunks are missing")
            return [(e[0], e[4]) for e in entries]
        except Bad as why:
            self.notes.append(f"scanned, because {why}")
            return None

    def scanned(self):
        out, at = [], DATA
        while at + 96 <= self.end:
            try:
                c = self.chunk(at)
                out.append((at, c["kind"]))
                at = c["end"]
            except Bad as why:
                if self.raw[at:at + 8] == b"LBCHUNK\x01":
                    self.notes.append(str(why))
                at += 512
        return out

    def each(self, *kinds):
        return (self.chunk(at) for at, kind in self.chunks if KINDS[kind] in kinds)

    def text(self, kind):
        parts = {c["first"]: c["body"] for c in self.each(kind)}
        out = b""
        while len(out) in parts and parts[len(out)]:
            out += parts[len(out)]
        return out

    def records(self):
        meta, at = self.text("meta"), 0
        while at < len(meta):
            tag, flags, length = struct.unpack_from("<HHI", meta, at)
            need(1 <= tag <= 6 and flags == 0, f"meta: tag {tag}")
            yield tag, meta[at + 8:at + 8 + length]
            at += 8 + length + -length % 8

    def spaces(self):
        """{(kind, device): {page: (class, contents)}}; pages of one word, or with the contents of
        another, have their contents and class 0."""
        out = {(5, struct.unpack_from("<H", value)[0]): {} for tag, value in self.records() if tag == 4}
        out[4, 0], same, data = {}, [], {}
        for c in self.each("memory", "swap"):
            body, count = c["body"], struct.unpack_from("<I", c["body"])[0]
            need(1 <= count <= 4096, "runs")
            page, at, space = c["first"], 4 + 8 * count, out.setdefault((c["kind"], c["device"]), {})
            table = struct.iter_unpack("<Q", body[4:at])
            for (run,) in table:
                kind, n = run >> 56, run & (1 << 56) - 1
                need(n and (kind in (0, 1, 2, 3, 5, 6) or kind == 4 and c["layer"]), "run")
                (word,) = next(table, (None,)) if kind > 4 else (None,)
                need(kind < 5 or word is not None and (word > 0 if kind == 5 else word + n <= 1 << 52), "run: word")
                need(page + n <= c["first"] + c["pages"], "runs cover more than the chunk")
                for page in range(page, page + n):
                    if kind != 4:
                        need(page not in space, f"page {page} is in two chunks")
                        space[page] = (0, struct.pack("<Q", word) * 512) if kind == 5 else (kind, body[at:at + 4096] if kind == 0 else b"")
                    if kind == 0 and c["kind"] == 4:
                        data[page] = space[page]
                    if kind == 6:
                        same.append((space, page, word))
                        word += 1
                    at += 4096 if kind == 0 else 0
                page += 1
            need(page == c["first"] + c["pages"] and at == len(body) == 4 + 8 * count + 4096 * c["data"], "runs do not add up")
        for space, page, source in same:
            need(source in data, f"page {page}: its source {source} is not stored")
            space[page] = data[source]
        return out

def main():
    args = argparse.ArgumentParser()
    args.add_argument("dump")
    args.add_argument("-i", dest="key")
    for flag in ("--scan", "--log", "--pages"):
        args.add_argument(flag, action="store_true")
    args = args.parse_args()
    secrets = [secret_of(line) for line in open(args.key) if line.startswith("AGE-SECRET-KEY-1")] if args.key else []
    dump = Dump(open(args.dump, "rb").read(), secrets, args.scan)
    for (kind, device), pages in sorted(dump.spaces().items()):
        name, digest, n = f"swap{device}" if kind == 5 else "memory", hashlib.sha256(), [0] * 4
        for page, (what, contents) in sorted(pages.items()):
            digest.update(struct.pack("<QB", page, what) + contents)
            n[what] += 1
            if args.pages:
                print("page", name, page, what, hashlib.sha256(contents).hexdigest())
        print(name, digest.hexdigest(), f"data {n[0]} zero {n[1]} unreadable {n[2]} excluded {n[3]}")
    for kind in ("log", "notes", "trailer"):
        print(kind, hashlib.sha256(dump.text(kind)).hexdigest(), "bytes", len(dump.text(kind)))
    if args.log:
        sys.stdout.write(dump.text("log").decode())
    for note in dump.notes:
        print("note:", note, file=sys.stderr)

if __name__ == "__main__":
    try:
        main()
    except (Bad, struct.error, ValueError, zstandard.ZstdError) as why:
        sys.exit(f"lifeboat_reader: {why}")
