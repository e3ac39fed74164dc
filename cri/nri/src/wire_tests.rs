use super::*;

/// What a peer would send: the same, the other way round.
fn arriving(side: Side, kind: u8, flags: u8, stream: u32, length: u32, body: &[u8]) -> Vec<u8> {
    let mut message = length.to_be_bytes().to_vec();
    message.extend(stream.to_be_bytes());
    message.extend([kind, flags]);
    message.extend(body);
    framed(side as u32, &message)
}

fn framed(side: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = side.to_be_bytes().to_vec();
    out.extend(u32::try_from(payload.len()).unwrap().to_be_bytes());
    out.extend(payload);
    out
}

fn whole(side: Side, stream: u32, body: &[u8]) -> Message {
    Message {
        side,
        stream,
        body: Body::Whole(body.to_vec()),
    }
}

#[test]
fn messages_arrive_however_they_are_cut() {
    let mut bytes = arriving(Side::Plugin, 2, 0, 1, 5, b"hello");
    bytes.extend(framed(2, b""));
    bytes.extend(arriving(Side::Runtime, 1, 0, 3, 0, b""));
    let one = arriving(Side::Runtime, 1, 0, 5, 3, b"abc");
    // One message in frames of one byte, with a message of the other side between.
    for (index, byte) in one[8..].iter().enumerate() {
        bytes.extend(framed(2, &[*byte]));
        if index == 4 {
            bytes.extend(arriving(Side::Plugin, 2, 0, 7, 1, b"x"));
        }
    }
    // Two messages in one frame.
    let mut two = arriving(Side::Plugin, 2, 0, 9, 1, b"y")[8..].to_vec();
    two.extend_from_within(..);
    bytes.extend(framed(1, &two));
    let expected = [
        whole(Side::Plugin, 1, b"hello"),
        whole(Side::Runtime, 3, b""),
        whole(Side::Plugin, 7, b"x"),
        whole(Side::Runtime, 5, b"abc"),
        whole(Side::Plugin, 9, b"y"),
        whole(Side::Plugin, 9, b"y"),
    ];
    for size in 1..bytes.len() {
        let (mut reader, mut out) = (Reader::new(), Vec::new());
        for piece in bytes.chunks(size) {
            reader.feed(piece, &mut out).unwrap();
        }
        assert_eq!(out, expected, "in pieces of {size}");
    }
}

#[test]
fn a_message_that_leaves_is_one_frame_that_fits_a_buffer_and_the_rest() {
    for (length, frames) in [(0, 1), (4086, 1), (4087, 2), (limits::MESSAGE, 2)] {
        let body = vec![7; length];
        let bytes = message(Side::Plugin, 11, &body).unwrap();
        let mut rest = &bytes[..];
        let mut sizes = Vec::new();
        let mut joined = Vec::new();
        while !rest.is_empty() {
            assert_eq!(rest[..4], [0, 0, 0, 1]);
            let size = super::length(rest[4..8].try_into().unwrap());
            joined.extend_from_slice(&rest[8..8 + size]);
            sizes.push(size);
            rest = &rest[8 + size..];
        }
        assert_eq!(sizes.len(), frames, "{length}: {sizes:?}");
        assert!(sizes[0] <= 4096);
        assert_eq!(joined[..4], u32::try_from(length).unwrap().to_be_bytes());
        assert_eq!(joined[4..10], [0, 0, 0, 11, 1, 0]);
        assert_eq!(joined.len(), length + 10);
    }
    assert_eq!(
        message(Side::Plugin, 1, &vec![0; limits::MESSAGE + 1]),
        None
    );
}

#[test]
fn garbage_is_an_error() {
    let cases: &[(&str, Vec<u8>, &str)] = &[
        (
            "reserved connection",
            framed(0, b"x"),
            "logical connection 0",
        ),
        ("third connection", framed(3, b"x"), "logical connection 3"),
        (
            "endless frame",
            [[0, 0, 0, 1], [0xff; 4]].concat(),
            "a frame of 4294967295 bytes",
        ),
        (
            "text",
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            "logical connection 1195725856",
        ),
        (
            "endless message",
            arriving(Side::Plugin, 2, 0, 1, 0x0100_0000, b""),
            "16777216 bytes",
        ),
        (
            "a request where answers belong",
            arriving(Side::Plugin, 1, 0, 1, 0, b""),
            "kind 1",
        ),
        (
            "a stream",
            arriving(Side::Runtime, 1, 2, 1, 0, b""),
            "flags 2",
        ),
        ("data", arriving(Side::Runtime, 3, 0, 1, 0, b""), "kind 3"),
        (
            "unknown kind",
            arriving(Side::Runtime, 9, 0, 1, 0, b""),
            "kind 9",
        ),
    ];
    for (name, bytes, words) in cases {
        let error = Reader::new().feed(bytes, &mut Vec::new()).unwrap_err();
        assert!(error.to_string().contains(words), "{name}: {error}");
    }
}

#[test]
fn a_message_that_is_too_long_costs_no_memory_and_the_next_one_is_read() {
    let length = limits::MESSAGE + 1;
    let (mut reader, mut out) = (Reader::new(), Vec::new());
    let head = arriving(Side::Plugin, 2, 0, 1, u32::try_from(length).unwrap(), b"");
    reader.feed(&head, &mut out).unwrap();
    assert_eq!(out.pop().unwrap().body, Body::TooLong(length));
    let piece = framed(1, &vec![0; 1 << 20]);
    for _ in 0..length >> 20 {
        reader.feed(&piece, &mut out).unwrap();
    }
    reader.feed(&framed(1, b"\0"), &mut out).unwrap();
    assert!(out.is_empty());
    let next = arriving(Side::Plugin, 2, 0, 3, 1, b"z");
    reader.feed(&next, &mut out).unwrap();
    assert_eq!(out, [whole(Side::Plugin, 3, b"z")]);
}

#[test]
fn fields_are_counted_at_all_depths() {
    assert_eq!(fields(b""), 0);
    // 1: 5, 2: "ccc", which begins like no message.
    assert_eq!(fields(&[0x08, 5, 0x12, 3, b'c', b'c', b'c']), 1);
    // 2: { 1: {}, 1: {} }
    assert_eq!(fields(&[0x12, 4, 0x0a, 0, 0x0a, 0]), 3);
    // What stands before the end that is missing counts: a decoder makes it.
    assert_eq!(fields(&[0x0a, 0, 0x12, 4, 0x08]), 1);
    // Long texts are few fields, even those that look like messages.
    for letters in ["x", "b", "zz", "hello, world! ", "eyJhbGciOiJIUzI1NiJ9."] {
        let text = letters.repeat((1 << 20) / letters.len());
        assert!(fields(text.as_bytes()) <= limits::FIELDS, "{letters}");
    }
    // Empty messages, two bytes each, and garbage at their end.
    let mut bomb = [0x12u8, 0].repeat(limits::FIELDS + 1);
    bomb.push(0x0f);
    assert!(fields(&bomb) > limits::FIELDS);
    // The same, one level down.
    let mut inside = vec![0x0a];
    let mut left = bomb.len();
    while left >= 0x80 {
        inside.push(u8::try_from(left & 0x7f).unwrap() | 0x80);
        left >>= 7;
    }
    inside.push(u8::try_from(left).unwrap());
    inside.extend(&bomb);
    assert!(fields(&inside) > limits::FIELDS);
    // Nested without end: each level costs 2 to 4 bytes, and deeper than the interface nobody looks.
    let mut nested = Vec::new();
    for _ in 0..40 {
        let mut outer = vec![0x0a, u8::try_from(nested.len()).unwrap()];
        outer.extend(&nested);
        nested = outer;
    }
    assert_eq!(fields(&nested), limits::DEPTH + 1);
}

#[test]
fn every_byte_of_noise_ends_in_messages_or_an_error() {
    // A small generator: the same noise each time.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for _ in 0..2_000 {
        let mut bytes = Vec::new();
        for _ in 0..64 {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            // Mostly small numbers, so that headers are sometimes right.
            let byte = state.to_be_bytes()[0];
            bytes.push(if byte & 3 == 0 { byte } else { byte & 3 });
        }
        let mut out = Vec::new();
        let _ = Reader::new().feed(&bytes, &mut out);
        assert!(out.len() <= bytes.len());
        let _ = fields(&bytes);
    }
}
