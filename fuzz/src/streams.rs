//! What clients of exec, attach and port-forward send: requests, frames of SPDY and of WebSocket.

use rcrun_streaming::spdy::frame::{self as spdy_frame, Control, Head};
use rcrun_streaming::spdy::headers::{Inflater, Stored};
use rcrun_streaming::websocket::frame as web_frame;
use rcrun_streaming::{http as head, limits};

use crate::bytes_of;

/// A session of SPDY, frame by frame.
pub fn spdy(input: &[u8]) {
    spdy_frames(input);
}

/// How many frames of an input can be read.
///
/// # Panics
///
/// If a frame of ours is not read as it was written.
pub fn spdy_frames(mut input: &[u8]) -> usize {
    let (mut inflater, mut count) = (Inflater::default(), 0);
    while let Some((first, rest)) = input.split_first_chunk() {
        let Ok(head) = spdy_frame::head(*first) else {
            break;
        };
        let length = match head {
            Head::Data { id, fin, length } => {
                let again = spdy_frame::data_head(id, fin, length);
                assert_eq!(spdy_frame::head(again), Ok(head));
                length
            }
            Head::Control { length, .. } => length,
        };
        let Some((payload, behind)) = rest.split_at_checked(length) else {
            break;
        };
        input = behind;
        if let Head::Control { kind, flags, .. } = head {
            assert!(payload.len() <= limits::CONTROL_FRAME);
            match spdy_frame::control(kind, flags, payload, Some(&mut inflater)) {
                Ok(Control::Window { delta, .. }) => assert!(delta <= spdy_frame::LARGEST_WINDOW),
                Ok(Control::SynStream { headers, .. }) => drop(headers.get("streamtype")),
                Ok(_) => {}
                Err(why) => {
                    assert!(!why.0.is_empty(), "an error says why");
                    break;
                }
            }
        }
        count += 1;
    }
    count
}

/// A block of headers, stored and not compressed, as deflate may.
fn stored(first: bool, pairs: &[(&str, &str)]) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or(0).to_be_bytes();
    let mut plain = number(pairs.len()).to_vec();
    for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
        plain.extend_from_slice(&number(text.len()));
        plain.extend_from_slice(text.as_bytes());
    }
    // What begins the stream of zlib is what it is in our own first block.
    let mut block = if first {
        Stored::default().empty()[..6].to_vec()
    } else {
        Vec::new()
    };
    let length = u16::try_from(plain.len()).unwrap_or(0);
    block.push(0);
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&(!length).to_le_bytes());
    block.extend_from_slice(&plain);
    block.extend_from_slice(&[0, 0, 0, 0xff, 0xff]);
    block
}

fn open(first: bool, id: u8, kind: &str) -> Vec<u8> {
    let pairs = [("streamtype", kind), ("port", "80"), ("requestid", "0")];
    let block = stored(first, &pairs);
    let mut frame = vec![0x80, 3, 0, 1, 0, 0, 0, 0, 0, 0, 0, id, 0, 0, 0, 0, 0, 0];
    frame.extend_from_slice(&block);
    frame[7] = u8::try_from(frame.len() - 8).unwrap_or(0);
    frame
}

/// An exec, a forwarded connection, and frames without headers.
pub fn spdy_seeds() -> Vec<Vec<u8>> {
    let mut data = spdy_frame::data_head(3, true, 5).to_vec();
    data.extend_from_slice(b"hello");
    let settings = vec![
        0x80, 3, 0, 4, 0, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1, 0, 0,
    ];
    let exec = [
        open(true, 1, "error"),
        open(false, 3, "stdin"),
        open(false, 5, "stdout"),
        data,
        spdy_frame::window(5, 65_536),
        spdy_frame::reset(5, spdy_frame::CANCEL),
    ];
    let forward = [open(true, 1, "error"), open(false, 3, "data")];
    let others = [
        settings,
        spdy_frame::ping(1),
        spdy_frame::nothing(),
        spdy_frame::go_away(0, 0),
    ];
    vec![exec.concat(), forward.concat(), others.concat()]
}

/// A client's side of a WebSocket, frame by frame.
pub fn websocket(input: &[u8]) {
    websocket_frames(input);
}

/// How many frames of an input can be read.
///
/// # Panics
///
/// If a mask or base64 is not the same in pieces as in whole.
pub fn websocket_frames(mut input: &[u8]) -> usize {
    let mut count = 0;
    while let Ok(Some((head, size))) = web_frame::head(input) {
        let length = usize::try_from(head.length).unwrap_or(usize::MAX);
        let Some((payload, behind)) = input[size..].split_at_checked(length) else {
            break;
        };
        input = behind;
        let cut = payload.len() / 3;
        let (mut whole, mut pieces) = (payload.to_vec(), payload.to_vec());
        web_frame::unmask(&mut whole, head.mask, 0);
        let (first, second) = pieces.split_at_mut(cut);
        web_frame::unmask(first, head.mask, 0);
        web_frame::unmask(second, head.mask, cut as u64);
        assert_eq!(whole, pieces);
        if let Ok(bytes) = web_frame::Base64::default().decode(&whole, true) {
            let mut decoder = web_frame::Base64::default();
            let mut again = decoder.decode(&whole[..cut], false).unwrap_or_default();
            again.extend(decoder.decode(&whole[cut..], true).unwrap_or_default());
            assert_eq!(bytes, again);
        }
        count += 1;
    }
    count
}

fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first, 0x80 | u8::try_from(payload.len()).unwrap_or(0)];
    frame.extend_from_slice(&mask);
    let at = frame.len();
    frame.extend_from_slice(payload);
    web_frame::unmask(&mut frame[at..], mask, 0);
    frame
}

/// Bytes and text.
pub fn websocket_seeds() -> Vec<Vec<u8>> {
    let bytes = [
        masked(0x02, b"\0hello"),
        masked(0x89, b"ping"),
        masked(0x80, b"more"),
        masked(0x82, &[255, 0]),
    ];
    let text = [
        masked(0x81, b"0aGVsbG8="),
        masked(0x81, b"4{\"Width\":80,\"Height\":24}"),
        masked(0x88, &[3, 0xe8]),
    ];
    vec![bytes.concat(), text.concat()]
}

/// A request: the same whether or not something follows it, and not complete before it is.
///
/// # Panics
///
/// If it is not.
pub fn http(input: &[u8]) {
    match head::parse(input) {
        Ok(Some((found, length))) => {
            assert!(length <= input.len() && !found.verb.is_empty());
            assert_eq!(head::parse(&input[..length]), Ok(Some((found, length))));
            assert!(!matches!(head::parse(&input[..length - 1]), Ok(Some(_))));
        }
        Ok(None) => {}
        Err(refused) => assert!((400..500).contains(&refused.status) && !refused.why.is_empty()),
    }
}

/// What kubectl sends.
pub fn http_seeds() -> Vec<Vec<u8>> {
    bytes_of(&[
        "POST /exec/dG9rZW4 HTTP/1.1\r\nHost: node:10250\r\nUser-Agent: kubectl\r\nContent-Length: 0\r\n\
         Connection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\
         X-Stream-Protocol-Version: v3.channel.k8s.io\r\n\r\n",
        "GET /portforward/dG9rZW4?x=1 HTTP/1.1\r\nHost: x\r\nConnection: keep-alive, Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n",
    ])
}
