//! What an archive says of its container, in the words of those who read it (checkpointctl,
//! `lib/metadata.go`), and what is believed of that. Pure.

use serde::Deserialize;
use serde_json::{Value, json};

use super::CONFIG;
use crate::core::Life;
use crate::proto::v1 as cri;
use crate::{Error, ErrorKind, Result};

/// What the container was.
#[derive(Debug)]
pub(super) struct Was<'a> {
    pub(super) status: &'a cri::ContainerStatus,
    pub(super) life: &'a Life,
    /// Its configuration.
    pub(super) spec: &'a Value,
    pub(super) pid: i32,
    /// Nanoseconds since the epoch.
    pub(super) now: i64,
}

/// RFC 3339.
fn time(nanoseconds: i64) -> String {
    let seconds = u64::try_from(nanoseconds / 1_000_000_000).unwrap_or_default();
    let text = rcrun_runtime::rfc3339_seconds(seconds);
    format!("{text}.{:09}Z", nanoseconds.rem_euclid(1_000_000_000))
}

impl Was<'_> {
    /// `config.dump`.
    pub(super) fn config(&self) -> Value {
        let name = self.status.metadata.clone().unwrap_or_default().name;
        let image = self.status.image.clone().unwrap_or_default().image;
        json!({
            "id": self.status.id,
            "name": name,
            "rootfsImage": image,
            "rootfsImageRef": self.status.image_ref,
            "rootfsImageName": image,
            "runtime": "rcrun",
            "createdTime": time(self.status.created_at),
            "checkpointedTime": time(self.now),
            "restoredTime": "0001-01-01T00:00:00Z",
            "restored": false,
        })
    }

    /// `status.dump`: the message, as Go writes it.
    pub(super) fn status(&self) -> Value {
        let status = self.status;
        let metadata = status.metadata.clone().unwrap_or_default();
        let image = status.image.clone().unwrap_or_default();
        json!({
            "id": status.id,
            "metadata": {"name": metadata.name, "attempt": metadata.attempt},
            "state": status.state,
            "created_at": status.created_at,
            "started_at": status.started_at,
            "image": {"image": image.image, "user_specified_image": image.user_specified_image},
            "image_ref": status.image_ref,
            "image_id": status.image_id,
            "labels": status.labels,
            "annotations": status.annotations,
            "log_path": status.log_path,
        })
    }

    /// `status`: what containerd keeps of a container.
    pub(super) fn state(&self) -> Value {
        let (ended, code) = match self.life {
            Life::Ended(end) => (end.at, end.code),
            _ => (0, 0),
        };
        json!({
            "CreatedAt": self.status.created_at,
            "StartedAt": self.status.started_at,
            "FinishedAt": ended,
            "ExitCode": code,
            "Pid": self.pid,
            "Reason": "",
            "Message": "",
        })
    }

    /// `bind.mounts`: what came from outside, as CRI-O lists it.
    pub(super) fn binds(&self) -> Value {
        let none = Vec::new();
        let mounts = self.spec["mounts"].as_array().unwrap_or(&none);
        let bound = mounts.iter().filter(|mount| {
            let options = mount["options"].as_array().unwrap_or(&none);
            options.iter().any(|one| one == "bind" || one == "rbind")
        });
        bound
            .map(|mount| json!({"source": mount["source"], "destination": mount["destination"]}))
            .collect()
    }
}

/// What is believed of `config.dump`: which image the container was made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Base {
    /// Something that stands for one image for ever: a name with a digest, or an identifier.
    pub(super) image: String,
}

/// Reads `config.dump`.
pub(super) fn base(text: &[u8]) -> Result<Base> {
    #[derive(Deserialize)]
    struct Config {
        #[serde(rename = "rootfsImageRef")]
        image: String,
    }
    let config: Config = serde_json::from_slice(text)
        .map_err(|error| Error::new(ErrorKind::InvalidInput, format!("{CONFIG}: {error}")))?;
    let hex = |text: &str| {
        text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (name, digest) = match config.image.rsplit_once('@') {
        Some((name, digest)) => (Some(name), digest),
        None => (None, config.image.as_str()),
    };
    let digest_is_one = match digest.split_once(':') {
        Some((algorithm, rest)) => algorithm == "sha256" && hex(rest),
        None => name.is_none() && hex(digest),
    };
    if !digest_is_one || name.is_some_and(str::is_empty) {
        let text = format!(
            "{CONFIG}: the image below is {:?}, which is neither a name with a digest nor an identifier",
            shortened(&config.image)
        );
        return Err(Error::invalid(text));
    }
    Ok(Base {
        image: config.image,
    })
}

/// Of what strangers say not more than this gets into errors.
fn shortened(text: &str) -> &str {
    const MOST: usize = 256;
    &text[..text.floor_char_boundary(MOST)]
}

/// Reads `deleted.files`: paths below the root, as archives of layers have them.
pub(super) fn deleted(text: &[u8]) -> Result<Vec<Vec<u8>>> {
    let wrong = |why: String| Error::invalid(format!("{}: {why}", super::DELETED));
    let all: Vec<String> = match text {
        [] => Vec::new(),
        text => serde_json::from_slice(text).map_err(|error| wrong(error.to_string()))?,
    };
    let one = |path: String| {
        let below = path.strip_prefix('/').unwrap_or(&path);
        let plain = |part: &str| !matches!(part, "" | "." | "..") && !part.starts_with(".wh.");
        match below.split('/').all(plain) && !below.contains('\0') {
            true => Ok(below.as_bytes().to_vec()),
            false => Err(wrong(format!("{:?} is no path", shortened(&path)))),
        }
    };
    all.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_below_is_one_image() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let read = |image: &str| base(json!({"rootfsImageRef": image}).to_string().as_bytes());
        for image in [format!("a.b/c@{digest}"), digest.clone(), "0a".repeat(32)] {
            assert_eq!(read(&image).unwrap().image, image);
        }
        for image in [
            "",
            "alpine",
            "a.b/c:latest",
            "a@sha256:00",
            "a@",
            &format!("@{digest}"),
            &format!("a@{}", "0a".repeat(32)),
            &"0A".repeat(32),
            &"é".repeat(400),
        ] {
            let error = read(image).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput, "{image}");
        }
        for text in ["", "{}", "[]", "{\"rootfsImageRef\":1}"] {
            assert!(base(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn deleted_files_are_below_the_root() {
        let read = |all: Value| deleted(all.to_string().as_bytes());
        assert_eq!(
            read(json!(["/a/b", "c"])).unwrap(),
            [b"a/b".to_vec(), b"c".to_vec()]
        );
        assert_eq!(deleted(b"").unwrap(), Vec::<Vec<u8>>::new());
        for path in [
            "", "/", "/a//b", "/../a", "/a/..", "/a/.", "/a/.wh.b", "a\0b",
        ] {
            assert!(read(json!([path])).is_err(), "{path:?}");
        }
        assert!(deleted(b"{}").is_err());
    }

    #[test]
    fn documents_have_what_their_readers_look_for() {
        let status = cri::ContainerStatus {
            id: "i".to_owned(),
            metadata: Some(cri::ContainerMetadata {
                name: "c".to_owned(),
                attempt: 1,
            }),
            image: Some(cri::ImageSpec {
                image: "a:1".to_owned(),
                ..Default::default()
            }),
            image_ref: "a@sha256:0".to_owned(),
            created_at: 1_500_000_000_000_000_001,
            ..Default::default()
        };
        let spec = json!({"mounts": [
            {"destination": "/proc", "type": "proc"},
            {"destination": "/v", "source": "/s", "options": ["rbind", "ro"]},
        ]});
        let was = Was {
            status: &status,
            life: &Life::Running,
            spec: &spec,
            pid: 7,
            now: 1,
        };
        let config = was.config();
        assert_eq!(config["rootfsImageRef"], "a@sha256:0");
        assert_eq!(config["createdTime"], "2017-07-14T02:40:00.000000001Z");
        assert_eq!(was.status()["metadata"]["name"], "c");
        assert_eq!(was.state()["Pid"], 7);
        assert_eq!(was.binds(), json!([{"source": "/s", "destination": "/v"}]));
    }
}
