//! The archives of the corpus: ordinary, odd and contradictory ones.

use super::pax::append;

/// Builds archives block by block.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

type Change<'a> = &'a dyn Fn(&mut [u8; 512]);

impl Bytes {
    fn header(mut self, name: &str, kind: u8, size: u64, change: Change<'_>) -> Self {
        let mut header = [0; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..107].copy_from_slice(b"0000644");
        header[108..115].copy_from_slice(b"0000000");
        header[116..123].copy_from_slice(b"0000000");
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        header[136..147].copy_from_slice(b"00000000001");
        header[156] = kind;
        header[257..265].copy_from_slice(b"ustar\x0000");
        change(&mut header);
        seal(&mut header);
        self.0.extend_from_slice(&header);
        self
    }

    fn data(mut self, data: &[u8]) -> Self {
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn file(self, name: &str, data: &[u8]) -> Self {
        self.header(name, b'0', data.len() as u64, &|_| {})
            .data(data)
    }

    fn pax(self, kind: u8, records: &[(&str, &str)]) -> Self {
        let mut body = Vec::new();
        for (key, value) in records {
            append(&mut body, key.as_bytes(), value.as_bytes());
        }
        self.header("pax", kind, body.len() as u64, &|_| {})
            .data(&body)
    }

    fn long(self, kind: u8, name: &str) -> Self {
        let body = [name.as_bytes(), b"\0"].concat();
        let gnu: Change<'_> = &|header| header[257..265].copy_from_slice(b"ustar  \0");
        self.header("././@LongLink", kind, body.len() as u64, gnu)
            .data(&body)
    }

    fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

/// Sets the checksum, unless it was set to something else on purpose.
fn seal(header: &mut [u8; 512]) {
    if header[148..156] == [0; 8] {
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..154].copy_from_slice(format!("{sum:06o}").as_bytes());
        header[154] = 0;
    }
}

fn set(header: &mut [u8; 512], at: usize, bytes: &[u8]) {
    header[at..at + bytes.len()].copy_from_slice(bytes);
}

/// A file that looks like a header: what a wrong size makes visible, or hides.
fn hidden() -> Vec<u8> {
    Bytes::default().file("hidden", b"surprise").0
}

pub(super) fn corpus() -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<(String, Vec<u8>)> = Vec::new();
    let mut add = |name: String, bytes: Bytes| all.push((name, bytes.file("last", b"12345").end()));
    let start = || Bytes::default().file("first", b"1");
    let none: Change<'_> = &|_| {};
    // PAX sizes against header sizes, with data that is a header.
    for (stated, real) in [(0, 1024), (1024, 0), (512, 1024), (1024, 512), (1024, 1024)] {
        for before in ["", "L", "K", "g"] {
            for late in ["", "L", "g", "x"] {
                let mut bytes = start();
                let extra = |bytes: Bytes, kind: &str| match kind {
                    "L" => bytes.long(b'L', "long"),
                    "K" => bytes.long(b'K', "long"),
                    "g" => bytes.pax(b'g', &[("comment", "x")]),
                    "x" => bytes.pax(b'x', &[("mtime", "5")]),
                    _ => bytes,
                };
                bytes = extra(bytes, before);
                bytes = bytes.pax(b'x', &[("size", &real.to_string())]);
                bytes = extra(bytes, late);
                bytes = bytes.header("file", b'0', stated, none).data(&hidden());
                add(format!("size-{stated}-{real}-{before}-{late}"), bytes);
            }
        }
    }
    for key in [
        "size",
        "path",
        "linkpath",
        "mtime",
        "uid",
        "comment",
        "GNU.sparse.size",
    ] {
        for kind in [b'x', b'g'] {
            for value in [
                "",
                "0",
                "512",
                "-1",
                "+5",
                " 5",
                "5 ",
                "0x10",
                "18446744073709551621",
            ] {
                let bytes = start().pax(kind, &[(key, value)]);
                let bytes = bytes.header("file", b'0', 1024, none).data(&hidden());
                add(format!("record-{key}-{}-{value}", char::from(kind)), bytes);
            }
        }
    }
    odd_headers(&mut add);
    odd_ends(&mut all);
    all
}

fn odd_headers(add: &mut dyn FnMut(String, Bytes)) {
    let start = || Bytes::default().file("first", b"1");
    let mut one = |name: &str, kind: u8, size: u64, change: Change<'_>| {
        let bytes = start().header("file", kind, size, change).data(&hidden());
        add(
            format!("header-{name}-{}-{size}", kind.escape_ascii()),
            bytes,
        );
    };
    // Sizes of what has no data, with every type.
    for kind in (b'0'..=b'9').chain(*b"\0ADLMNSVXZ") {
        for size in [0, 1024] {
            one("type", kind, size, &|header| set(header, 157, b"first"));
            one("slash", kind, size, &|header| {
                set(header, 157, b"first");
                header[4] = b'/';
            });
        }
    }
    // Numbers in every spelling.
    for (at, field) in [
        &b"0000002000 "[..],
        b"    2000 \0\0\0",
        b"2000\0\0\0\0\0\0\0\0",
        b"2000 2000\0\0\0",
        b"2000\x002000\0\0\0",
        b"00000002000x",
        b"000000020008",
        b"000000002000",
        b"-00000002000",
        b"            ",
        b"\0\0\0\0\0\0\0\0\0\0\0\0",
        b"\x80\0\0\0\0\0\0\0\0\0\x04\0",
        b"\x81\0\0\0\0\0\0\0\0\0\x04\0",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfc\0",
        b"\x80\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x80\0\0\0\x80\0\0\0\0\0\0\0",
        b"+0000002000\0",
    ]
    .iter()
    .enumerate()
    {
        one(&format!("size{at}"), b'0', 1024, &|header| {
            header[124..136].fill(0);
            set(header, 124, field);
        });
        one(&format!("mtime{at}"), b'0', 1024, &|header| {
            header[136..148].fill(0);
            set(header, 136, field);
        });
    }
    odd_formats(add);
    odd_records(add);
}

fn odd_formats(add: &mut dyn FnMut(String, Bytes)) {
    let start = || Bytes::default().file("first", b"1");
    let mut one = |name: &str, kind: u8, size: u64, change: Change<'_>| {
        let bytes = start().header("file", kind, size, change).data(&hidden());
        add(
            format!("header-{name}-{}-{size}", kind.escape_ascii()),
            bytes,
        );
    };
    // Formats and prefixes.
    for (at, magic) in [
        &b"ustar\x0000"[..],
        b"ustar  \0",
        b"ustar \0\0",
        b"ustar\0\0\0",
        b"\0\0\0\0\0\0\0\0",
        b"ustar000",
    ]
    .iter()
    .enumerate()
    {
        one(&format!("magic{at}"), b'0', 1024, &|header| {
            set(header, 257, magic);
            set(header, 345, b"prefix");
        });
        one(&format!("plain-magic{at}"), b'0', 1024, &|header| {
            set(header, 257, magic);
        });
    }
    one("nul-in-name", b'0', 1024, &|header| {
        set(header, 0, b"file\0more");
    });
    one("full-name", b'0', 1024, &|header| header[..100].fill(b'n'));
    one("signed-sum", b'0', 1024, &|header| {
        header[10] = 0;
        header[300] = 0xff;
        set(header, 148, b"        ");
        let sum: i32 = header
            .iter()
            .map(|byte| i32::from(byte.cast_signed()))
            .sum();
        set(header, 148, format!("{sum:06o}\0 ").as_bytes());
    });
    one("wrong-sum", b'0', 1024, &|header| {
        set(header, 148, b"0001234\0");
    });
    one("mode", b'0', 1024, &|header| set(header, 100, b"100644 \0"));
    one("sparse", b'S', 1024, &|header| {
        set(header, 257, b"ustar  \0");
        set(header, 386, b"00000000000\x0000000002000\0");
        set(header, 483, b"00000002000\0");
    });
    one("sparse-hole", b'S', 1024, &|header| {
        set(header, 257, b"ustar  \0");
        set(header, 386, b"00000002000\x0000000002000\0");
        set(header, 483, b"00000010000\0");
    });
    one("sparse-overlong", b'S', 1024, &|header| {
        set(header, 257, b"ustar  \0");
        set(header, 386, b"00000002000\x0000000004000\0");
        set(header, 483, b"00000010000\0");
    });
}

fn odd_records(add: &mut dyn FnMut(String, Bytes)) {
    let start = || Bytes::default().file("first", b"1");
    for records in [
        &[("GNU.sparse.size", "4096"), ("GNU.sparse.map", "0,1024")][..],
        &[
            ("GNU.sparse.size", "4096"),
            ("GNU.sparse.map", "3072,1024"),
            ("GNU.sparse.numblocks", "1"),
        ],
        &[("GNU.sparse.size", "4096"), ("GNU.sparse.map", "0,512")],
        &[
            ("GNU.sparse.size", "4096"),
            ("GNU.sparse.map", "0,512,256,512"),
        ],
        &[
            ("GNU.sparse.size", "4096"),
            ("GNU.sparse.numblocks", "1"),
            ("GNU.sparse.offset", "0"),
            ("GNU.sparse.numbytes", "1024"),
        ],
        &[
            ("GNU.sparse.major", "1"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.name", "s"),
            ("GNU.sparse.realsize", "4096"),
        ],
        &[
            ("GNU.sparse.major", "2"),
            ("GNU.sparse.minor", "0"),
            ("GNU.sparse.realsize", "4096"),
        ],
        &[("path", "one"), ("path", "two")],
        &[("size", "512"), ("size", "1024")],
        &[("path", "dir/")],
    ] {
        let bytes = start()
            .pax(b'x', records)
            .header("file", b'0', 1024, &|_| {})
            .data(&hidden());
        add(
            format!("records-{records:?}").replace(['/', '"'], "_"),
            bytes,
        );
    }
    odd_names(add);
}

fn odd_names(add: &mut dyn FnMut(String, Bytes)) {
    let start = || Bytes::default().file("first", b"1");
    let map = [&b"1\n3072\n512\n"[..], &[0; 501], &[7; 512]].concat();
    let records = [
        ("GNU.sparse.major", "1"),
        ("GNU.sparse.minor", "0"),
        ("GNU.sparse.name", "s"),
        ("GNU.sparse.realsize", "4096"),
    ];
    let bytes = start()
        .pax(b'x', &records)
        .header("file", b'0', 1024, &|_| {})
        .data(&map);
    add("sparse-1.0".into(), bytes);
    for name in [
        "plain",
        &"long/".repeat(30),
        "a//b",
        "./a/./b",
        "with space",
        "slash/",
    ] {
        add(
            format!("long-{}", name.len()),
            start().long(b'L', name).file("short", b"x"),
        );
        add(
            format!("twice-{}", name.len()),
            start()
                .long(b'L', "other")
                .long(b'L', name)
                .file("short", b"x"),
        );
        let link = start().long(b'K', name).header("l", b'2', 0, &|_| {});
        add(format!("link-{}", name.len()), link);
        add(
            format!("path-{}", name.len()),
            start().pax(b'x', &[("path", name)]).file("short", b"x"),
        );
    }
}

/// Archives that end, or do not, in odd ways.
fn odd_ends(all: &mut Vec<(String, Vec<u8>)>) {
    let whole = Bytes::default()
        .file("first", b"1")
        .file("second", &[b'2'; 700])
        .end();
    for length in [
        0, 1, 511, 512, 513, 1023, 1024, 1536, 2047, 2048, 2560, 2561, 3072, 3584,
    ] {
        all.push((
            format!("cut-{length}"),
            whole[..length.min(whole.len())].to_vec(),
        ));
    }
    let first = Bytes::default().file("first", b"1").0;
    let zeros = [0; 512];
    let hidden = hidden();
    all.push((
        "lone-zero".into(),
        [&first[..], &zeros, &hidden, &zeros, &zeros].concat(),
    ));
    all.push((
        "after-end".into(),
        [&first[..], &zeros, &zeros, &hidden].concat(),
    ));
    all.push(("one-zero".into(), [&first[..], &zeros].concat()));
    all.push((
        "garbage".into(),
        [&first[..], &[b'x'; 512], &zeros, &zeros].concat(),
    ));
    all.push((
        "garbage-after-end".into(),
        [&first[..], &zeros, &zeros, &[b'x'; 700]].concat(),
    ));
    let lonely = Bytes::default()
        .file("first", b"1")
        .pax(b'x', &[("path", "p")]);
    all.push(("lonely-pax".into(), lonely.end()));
    let lonely = Bytes::default().file("first", b"1").long(b'L', "p");
    all.push(("lonely-long".into(), lonely.end()));
}
