//! Against Debian's `docker-registry`, where it is installed.

use std::io::Read;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use super::*;
use crate::registry::upload::Pushed;

pub(crate) struct Real(Child, pub(crate) u16);

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) fn real(directory: &std::path::Path) -> Option<Real> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let configuration = directory.join("config.yml");
    let data = directory.join("data");
    let text = format!(
        "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\n  \
         delete:\n    enabled: true\nhttp:\n  addr: 127.0.0.1:{port}\n",
        data.display()
    );
    std::fs::write(&configuration, text).unwrap();
    let child = Command::new("docker-registry")
        .arg("serve")
        .arg(&configuration)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(child) = child else {
        println!("skipped: docker-registry is not installed");
        return None;
    };
    let real = Real(child, port);
    let began = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(30),
            "docker-registry does not come up"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(real)
}

#[test]
fn round_trip_with_docker_registry() {
    let directory = tempfile::tempdir().unwrap();
    let Some(real) = real(directory.path()) else {
        return;
    };
    let host = format!("127.0.0.1:{}", real.1);
    let chunked = format!(r#"{{"{host}":{{"upload_chunk":2000000}}}}"#);
    for (n, settings) in [Settings::default(), settings(&chunked)]
        .into_iter()
        .enumerate()
    {
        let client = client(settings);
        let reference: Reference = format!("{host}/a/b{n}:1").parse().unwrap();
        let mut blobs = vec![
            b"{}".to_vec(),
            noise(10),
            noise(1_000_000 + n),
            noise(5_000_000 + n),
        ];
        blobs.push(noise(40 << 20));
        for blob in &blobs {
            let source = |offset: u64| -> Result<Box<dyn Read>> {
                Ok(Box::new(std::io::Cursor::new(
                    blob[offset as usize..].to_vec(),
                )))
            };
            let push = |other| {
                client
                    .push_blob(&reference, &layer(blob), other, &source)
                    .unwrap()
            };
            let first = push(Some("a/b0"));
            assert!(matches!(first, Pushed::Sent | Pushed::Mounted));
            assert_eq!(push(None), Pushed::Present);
            let kept = Kept::new(&layer(blob));
            // A part is there already, so that Range is needed.
            let part = blob.len() / 3;
            kept.state.lock().unwrap().1[..part].fill(true);
            kept.state.lock().unwrap().0[..part].copy_from_slice(&blob[..part]);
            kept.fetch(&client, &reference).unwrap();
            assert!(kept.bytes() == *blob);
        }
        let layers: Vec<&[u8]> = blobs[1..].iter().map(Vec::as_slice).collect();
        let image = manifest(&layers, &blobs[0]);
        let digest = client
            .push_manifest(&reference, media::OCI_MANIFEST, &image)
            .unwrap();
        assert_eq!(client.resolve(&reference).unwrap().bytes, image);
        assert_eq!(client.digest(&reference).unwrap(), Some(digest.clone()));
        assert_eq!(client.tags(&reference).unwrap(), ["1"]);
        assert!(client.referrers(&reference, &digest).unwrap().is_empty());
        client.delete_manifest(&reference, &digest).unwrap();
        let error = client.resolve(&reference).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error:?}");
    }
}
