use super::*;

fn example() -> Message {
    let property = |name: &str, value: Value| {
        Value::Struct(vec![Value::string(name), Value::Variant(Box::new(value))])
    };
    Message {
        serial: 7,
        ..Message::call(
            "org.freedesktop.systemd1",
            "/org/freedesktop/systemd1",
            "org.freedesktop.systemd1.Manager",
            "StartTransientUnit",
            vec![
                Value::string("a.scope"),
                Value::string("replace"),
                Value::Array(
                    "(sv)".into(),
                    vec![
                        property("Delegate", Value::Bool(true)),
                        property("PIDs", Value::Array("u".into(), vec![Value::U32(5)])),
                        property("MemoryMax", Value::U64(u64::MAX)),
                        property("X", Value::Array("y".into(), vec![Value::Byte(3)])),
                        property("N", Value::I16(-2)),
                        property("D", Value::Double(0.5)),
                        property("W", Value::strings(["a", "bc"])),
                    ],
                ),
                Value::Array("(sa(sv))".into(), vec![]),
            ],
        )
    }
}

#[test]
fn round_trip() {
    let bytes = example().encode();
    let mut start = [0; 16];
    start.copy_from_slice(&bytes[..16]);
    assert_eq!(total_length(&start).unwrap(), bytes.len());
    assert_eq!(Message::decode(&bytes).unwrap(), example());
}

#[test]
fn known_bytes() {
    // The Hello call that every bus client sends, worked out by hand from the specification.
    let call = Message::call("a.b", "/c", "d.e", "F", vec![Value::string("x")]);
    let bytes = Message { serial: 1, ..call }.encode();
    let mut want = vec![b'l', 1, 0, 1, 6, 0, 0, 0, 1, 0, 0, 0, 71, 0, 0, 0];
    want.extend(b"\x01\x01o\0\x02\0\0\0/c\0\0\0\0\0\0");
    want.extend(b"\x02\x01s\0\x03\0\0\0d.e\0\0\0\0\0");
    want.extend(b"\x03\x01s\0\x01\0\0\0F\0\0\0\0\0\0\0");
    want.extend(b"\x06\x01s\0\x03\0\0\0a.b\0\0\0\0\0");
    want.extend(b"\x08\x01g\0\x01s\0\0");
    want.extend(b"\x01\0\0\0x\0");
    assert_eq!(bytes, want);
}

#[test]
fn every_cut_and_every_changed_byte_is_survived() {
    let good = example().encode();
    for end in 0..good.len() {
        assert!(Message::decode(&good[..end]).is_err(), "{end}");
    }
    for at in 0..good.len() {
        for value in [0, 1, 0x7f, 0xff, b'(', b'a', b'v'] {
            let mut bad = good.clone();
            bad[at] = value;
            // Error or another message, but no panic.
            let _ = Message::decode(&bad);
        }
    }
}

#[test]
fn nesting_is_limited() {
    let mut value = Value::Byte(1);
    for _ in 0..200 {
        value = Value::Variant(Box::new(value));
    }
    let bytes = Message::call("a", "/", "b", "c", vec![value]).encode();
    assert!(Message::decode(&bytes).is_err());
}

#[test]
fn lengths_are_limited() {
    let mut start = [0; 16];
    start[..4].copy_from_slice(&[b'l', 1, 0, 1]);
    start[12..].copy_from_slice(&[0xff; 4]);
    assert!(total_length(&start).is_err());
    start[0] = b'B';
    assert!(total_length(&start).is_err());
}
