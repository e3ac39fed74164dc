//! What plugins of the Node Resource Interface send: frames, messages in them, calls and answers in those.

use prost::Message as _;
use rcrun_nri::limits;
use rcrun_nri::proto::ttrpc;
use rcrun_nri::proto::v1alpha1::{
    CreateContainerResponse, RegisterPluginRequest, UpdateContainersRequest,
};
use rcrun_nri::wire::{self, Body, Message, Reader, Side};

use crate::bytes_of;

/// A connection of a plugin.
pub fn nri(input: &[u8]) {
    nri_messages(input);
}

/// How many messages of an input can be read, and how many of those are calls or answers.
///
/// # Panics
///
/// If it matters how the bytes are cut, if a message is longer than it may be, or if one of ours is not one frame behind
/// the other.
pub fn nri_messages(input: &[u8]) -> (usize, usize) {
    let whole = read(input, input.len().max(1));
    for size in [1, 7, 8, 4096] {
        assert_eq!(read(input, size), whole, "in pieces of {size}");
    }
    let understood = whole.0.iter().filter(|message| understood(message));
    (whole.0.len(), understood.count())
}

fn read(input: &[u8], size: usize) -> (Vec<Message>, bool) {
    let (mut reader, mut out) = (Reader::new(), Vec::new());
    let fine = input
        .chunks(size)
        .all(|piece| reader.feed(piece, &mut out).is_ok());
    (out, fine)
}

fn understood(message: &Message) -> bool {
    let body = match &message.body {
        Body::Whole(body) => body,
        Body::TooLong(length) => {
            assert!((limits::MESSAGE + 1..=limits::LENGTH).contains(length));
            return false;
        }
    };
    assert!(body.len() <= limits::MESSAGE);
    ours(message.side, message.stream, body);
    // What has more parts than this is not decoded.
    if wire::fields(body) > limits::FIELDS {
        return false;
    }
    match message.side {
        Side::Runtime => ttrpc::Request::decode(&body[..]).is_ok_and(|call| {
            let payload = &call.payload[..];
            match call.method.as_str() {
                "RegisterPlugin" => RegisterPluginRequest::decode(payload).is_ok(),
                _ => UpdateContainersRequest::decode(payload).is_ok(),
            }
        }),
        Side::Plugin => ttrpc::Response::decode(&body[..])
            .is_ok_and(|answer| CreateContainerResponse::decode(&answer.payload[..]).is_ok()),
    }
}

/// A message that leaves is frames, whose payload is header and body.
fn ours(side: Side, stream: u32, body: &[u8]) {
    let bytes = wire::message(side, stream, body).expect("what arrives may leave");
    let (mut rest, mut payload) = (&bytes[..], Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([head[4], head[5], head[6], head[7]]);
        let (frame, behind) = behind.split_at(usize::try_from(length).unwrap_or(usize::MAX));
        assert!(!frame.is_empty() && frame.len() <= limits::FRAME);
        payload.extend_from_slice(frame);
        rest = behind;
    }
    assert!(rest.is_empty());
    assert_eq!(&payload[10..], body);
}

/// What arrives: kind 1 is a call, 2 an answer.
fn arriving(side: u8, kind: u8, stream: u8, body: &[u8]) -> Vec<u8> {
    let number = |value: usize| u32::try_from(value).unwrap_or(0).to_be_bytes();
    let mut message = number(body.len()).to_vec();
    message.extend([0, 0, 0, stream, kind, 0]);
    message.extend_from_slice(body);
    let mut out = vec![0, 0, 0, side];
    out.extend(number(message.len()));
    out.extend(message);
    out
}

fn call(method: &str, payload: Vec<u8>) -> Vec<u8> {
    let request = ttrpc::Request {
        service: "nri.pkg.api.v1alpha1.Runtime".to_owned(),
        method: method.to_owned(),
        payload,
        ..Default::default()
    };
    request.encode_to_vec()
}

/// A registration, an update, an answer with an adjustment, and frames that are none.
pub fn nri_seeds() -> Vec<Vec<u8>> {
    use rcrun_nri::proto::v1alpha1::{ContainerAdjustment, ContainerUpdate, KeyValue, Mount};
    let register = RegisterPluginRequest {
        plugin_name: "p".to_owned(),
        plugin_idx: "10".to_owned(),
        ..Default::default()
    };
    let update = UpdateContainersRequest {
        update: vec![ContainerUpdate {
            container_id: "c".to_owned(),
            ignore_failure: true,
            ..Default::default()
        }],
        ..Default::default()
    };
    let adjusted = CreateContainerResponse {
        adjust: Some(ContainerAdjustment {
            annotations: [("a".to_owned(), "b".to_owned())].into(),
            mounts: vec![Mount {
                destination: "/d".to_owned(),
                source: "/s".to_owned(),
                options: vec!["ro".to_owned()],
                ..Default::default()
            }],
            env: vec![KeyValue {
                key: "K".to_owned(),
                value: "v".to_owned(),
            }],
            ..Default::default()
        }),
        ..Default::default()
    };
    let answer = ttrpc::Response {
        payload: adjusted.encode_to_vec(),
        ..Default::default()
    };
    let register = arriving(2, 1, 1, &call("RegisterPlugin", register.encode_to_vec()));
    let update = arriving(2, 1, 3, &call("UpdateContainers", update.encode_to_vec()));
    let answer = arriving(1, 2, 1, &answer.encode_to_vec());
    let empty = vec![0, 0, 0, 1, 0, 0, 0, 0];
    // A message that is too long, of which little comes.
    let mut long = arriving(2, 1, 5, &[0; 64]);
    long[8..12].copy_from_slice(&[0, 0x50, 0, 0]);
    let mut all = bytes_of(&["", "GET / HTTP/1.1\r\n"]);
    all.push([register, empty, update.clone(), answer.clone()].concat());
    all.push([answer, update].concat());
    all.push(long);
    all
}
