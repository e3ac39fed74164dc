//! The client against the scripted registry: RELIABILITY 28 to 33 and the attacks D8, D9 and D11.

mod access;
mod faults;
mod hostile;
mod network;
mod pull;
mod push;
pub(crate) mod real;

use std::ops::Range;
use std::sync::Mutex;
use std::time::Duration;

use super::client::{Client, Options};
use super::credentials::{Credential, Credentials, Secret};
use super::download::Sink;
use super::endpoints::Proxies;
use super::resolver::Resolver;
use super::retry::{Cancel, Policy};
use super::settings::Settings;
use super::testing::{Fault, Registry};
use crate::document::{Descriptor, media};
use crate::reference::Reference;
use crate::{Digest, Error, ErrorKind, Result};

/// Waits that a test can afford.
const POLICY: Policy = Policy {
    retries: 5,
    first: Duration::from_millis(1),
    longest: Duration::from_millis(20),
    longest_asked: Duration::from_secs(2),
};

fn settings(text: &str) -> Settings {
    serde_json::from_str(text).unwrap()
}

/// For plain HTTP on loopback, with a stall that a test can wait for.
fn plain(registry: &Registry) -> Settings {
    settings(&format!(
        r#"{{"{}":{{"plain_http":true}}}}"#,
        registry.host()
    ))
}

fn options(settings: Settings) -> Options {
    Options {
        settings,
        credentials: Credentials::none(),
        proxies: Proxies::default(),
        resolver: Resolver::default(),
        policy: POLICY,
        cancel: Cancel::new(),
        notice: crate::registry::Notice::default(),
    }
}

fn client(settings: Settings) -> Client {
    Client::new(options(settings))
}

fn user(registry: &Registry, user: &str, password: &str) -> Credentials {
    Credentials::only(&registry.host(), &basic(user, password))
}

fn basic(user: &str, password: &str) -> Credential {
    Credential::Basic {
        user: user.into(),
        password: Secret::new(password),
    }
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest: Digest::of(bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: Default::default(),
        platform: None,
        artifact_type: None,
    }
}

fn layer(bytes: &[u8]) -> Descriptor {
    descriptor(media::OCI_LAYER, bytes)
}

/// Bytes that are different everywhere.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A place for a blob, as the content store's ingest behaves.
struct Kept {
    wanted: Descriptor,
    state: Mutex<(Vec<u8>, Vec<bool>)>,
    discarded: Mutex<usize>,
}

/// Bytes that are remembered as one.
const GRAIN: usize = 1;

impl Kept {
    fn new(wanted: &Descriptor) -> Self {
        let size = wanted.size as usize;
        Self {
            wanted: wanted.clone(),
            state: Mutex::new((vec![0; size], vec![false; size.div_ceil(GRAIN)])),
            discarded: Mutex::new(0),
        }
    }

    fn missing(&self) -> Vec<Range<u64>> {
        let state = self.state.lock().unwrap();
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (at, there) in state.1.iter().enumerate() {
            let at = at as u64;
            match ranges.last_mut() {
                _ if *there => {}
                Some(last) if last.end == at => last.end += 1,
                _ => ranges.push(at..at + 1),
            }
        }
        ranges
    }

    fn bytes(&self) -> Vec<u8> {
        self.state.lock().unwrap().0.clone()
    }

    fn fetch(&self, client: &Client, reference: &Reference) -> Result<()> {
        let sink = Sink {
            missing: &|| Ok(self.missing()),
            write: &|offset, bytes| {
                let (start, end) = (offset as usize, offset as usize + bytes.len());
                let mut state = self.state.lock().unwrap();
                assert!(
                    state.1[start..end].iter().all(|there| !there),
                    "written twice"
                );
                state.0[start..end].copy_from_slice(bytes);
                state.1[start..end].fill(true);
                Ok(())
            },
            verify: &|| {
                assert!(self.missing().is_empty(), "verified before it is whole");
                match Digest::of(&self.bytes()) == self.wanted.digest {
                    true => Ok(()),
                    false => Err(Error::new(ErrorKind::Corrupt, "wrong bytes")),
                }
            },
            discard: &|| {
                *self.discarded.lock().unwrap() += 1;
                self.state.lock().unwrap().1.fill(false);
                Ok(())
            },
        };
        client.blob(reference, &self.wanted, &sink)
    }
}

/// A registry with a blob of so many bytes in `a/b`.
fn with_blob(length: usize) -> (Registry, Vec<u8>, Reference) {
    let registry = Registry::open();
    let bytes = noise(length);
    registry.add_blob("a/b", &bytes);
    let reference = registry.reference("a/b:1");
    (registry, bytes, reference)
}

/// An image's manifest.
fn manifest(layers: &[&[u8]], config: &[u8]) -> Vec<u8> {
    let json = |one: &Descriptor| serde_json::to_value(one).unwrap();
    let layers: Vec<_> = layers.iter().map(|bytes| json(&layer(bytes))).collect();
    serde_json::json!({
        "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
        "config": json(&descriptor(media::OCI_CONFIG, config)), "layers": layers,
    })
    .to_string()
    .into_bytes()
}

fn text(error: &Error) -> String {
    error.chain().to_string()
}

fn sent(registry: &Registry, part: &str) -> u64 {
    registry
        .seen_of("GET", part)
        .iter()
        .map(|seen| seen.sent)
        .sum()
}

fn answer(status: u16, name: &str, value: &str) -> Fault {
    Fault::Answer(super::testing::Answer::new(status, "").with(name, value))
}
