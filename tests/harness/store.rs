//! A store of images, the scripted registry it is filled from, and the verbs on it.

use super::runtime::Running;
use super::{Env, Output, users};
use rcrun_image::Digest;
use rcrun_image::document::media;
use rcrun_image::registry::testing::{Registry, Setup};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::os::unix::fs::chown;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A store below the test's directory and a registry on loopback.
pub(crate) struct Shelf<'a> {
    pub(crate) env: &'a Env,
    pub(crate) registry: Registry,
    variables: RefCell<Vec<(String, String)>>,
}

/// An image to be published.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) layers: Vec<Vec<u8>>,
    pub(crate) config: Value,
    pub(crate) platform: (&'static str, &'static str),
    /// Of the manifest.
    pub(crate) annotations: Value,
}

/// What was published.
#[derive(Clone, Debug)]
pub(crate) struct Published {
    /// Digest of the configuration.
    pub(crate) id: String,
    /// Digest of the manifest.
    pub(crate) manifest: String,
    /// The manifest's size.
    pub(crate) size: usize,
    /// The layers' blobs.
    pub(crate) layers: Vec<Digest>,
}

impl Image {
    /// Of these layers, for this machine.
    pub(crate) fn new(layers: &[Vec<u8>]) -> Self {
        Self {
            layers: layers.to_vec(),
            config: json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"], "Labels": {"made": "here"}}),
            platform: ("linux", host()),
            annotations: json!({}),
        }
    }

    /// Of one layer with one file.
    pub(crate) fn with_file(name: &str, content: &[u8]) -> Self {
        Self::new(&[archive(&[(name, content)])])
    }
}

fn host() -> &'static str {
    match std::env::consts::ARCH {
        "aarch64" => "arm64",
        _ => "amd64",
    }
}

/// A layer's archive: `(path, content)`, directories end with `/`.
pub(crate) fn archive(entries: &[(&str, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, content) in entries {
        let directory = path.ends_with('/');
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(match directory {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Bytes that do not compress.
pub(crate) fn noise(length: usize, mut seed: u64) -> Vec<u8> {
    let byte = |_| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (seed >> 33) as u8
    };
    (0..length).map(byte).collect()
}

impl<'a> Shelf<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self::with(env, Setup::default())
    }

    pub(crate) fn with(env: &'a Env, setup: Setup) -> Self {
        // The test has a network of its own, which is down.
        let up = Command::new("ip")
            .args(["link", "set", "lo", "up"])
            .status();
        assert!(up.unwrap().success());
        let registry = Registry::start(setup);
        let shelf = Self {
            env,
            registry,
            variables: RefCell::default(),
        };
        let mut places = vec![("HOME", "home")];
        places.extend(env.user.map(|_| ("XDG_RUNTIME_DIR", "run")));
        for (variable, name) in places {
            let path = env.directory(name);
            if env.user.is_some() {
                chown(&path, env.user, env.user).unwrap();
            }
            shelf.set(variable, path.to_str().unwrap());
        }
        if env.user.is_none() {
            shelf.settings(&json!({}));
        }
        shelf
    }

    /// From now on the verbs get this variable.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.variables
            .borrow_mut()
            .push((name.to_owned(), value.to_owned()));
    }

    /// Writes the settings file. Containers get no network unless it says so: most tests are not about one.
    pub(crate) fn settings(&self, settings: &Value) {
        let path = self.env.path("settings.json");
        let mut settings = settings.clone();
        if settings["network"].is_null() {
            settings["network"] = json!({"default": "none"});
        }
        std::fs::write(&path, settings.to_string()).unwrap();
        self.set("RCRUN_SETTINGS", path.to_str().unwrap());
    }

    /// Where the store is.
    pub(crate) fn path(&self) -> PathBuf {
        self.env.path("store")
    }

    /// `HOST:PORT/NAME`.
    pub(crate) fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.host())
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let program = self.env.rt.path();
        let mut command = match self.env.user {
            None => Command::new(program),
            Some(id) => users::command(id, &program),
        };
        command
            .arg("--root")
            .arg(&self.env.rt.root)
            .arg("--store")
            .arg(self.path())
            .args(args)
            .envs(self.variables.borrow().iter().cloned())
            .stdin(Stdio::null());
        command
    }

    /// Calls a verb and waits for it.
    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.env.rt.finish(self.spawn(args))
    }

    /// Calls a verb, which succeeds; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.call(args).ok().stdout
    }

    #[track_caller]
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        self.env.rt.spawn(self.command(args))
    }

    /// Puts an image into the registry: `REPOSITORY[:TAG]`.
    pub(crate) fn publish(&self, name: &str, image: &Image) -> Published {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let diff_ids: Vec<Digest> = image.layers.iter().map(|layer| Digest::of(layer)).collect();
        let history: Vec<Value> = (0..image.layers.len())
            .map(|n| json!({"created": "2026-01-02T03:04:05Z", "created_by": format!("COPY layer{n} /")}))
            .chain([json!({"created": "2026-01-02T03:04:06Z", "created_by": "CMD sh", "empty_layer": true})])
            .collect();
        let config = json!({
            "created": "2026-01-02T03:04:06Z", "author": "a tester",
            "os": image.platform.0, "architecture": image.platform.1,
            "config": image.config, "history": history,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        })
        .to_string();
        let layers: Vec<Digest> = image
            .layers
            .iter()
            .map(|layer| self.registry.add_blob(repository, layer))
            .collect();
        let descriptors: Vec<Value> = image
            .layers
            .iter()
            .zip(&layers)
            .map(|(layer, digest)| {
                json!({"mediaType": media::OCI_LAYER, "digest": digest, "size": layer.len()})
            })
            .collect();
        let id = self.registry.add_blob(repository, config.as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST,
            "config": {"mediaType": media::OCI_CONFIG, "digest": id, "size": config.len()},
            "layers": descriptors, "annotations": image.annotations,
        })
        .to_string();
        let kind = media::OCI_MANIFEST;
        let digest = self
            .registry
            .add_manifest(repository, tag, kind, manifest.as_bytes());
        Published {
            id: id.to_string(),
            manifest: digest.to_string(),
            size: manifest.len(),
            layers,
        }
    }

    /// Puts an index of published images of a repository there, by platform.
    pub(crate) fn publish_index(&self, name: &str, images: &[(&Published, &str)]) -> String {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let entries: Vec<Value> = images
            .iter()
            .map(|(image, architecture)| {
                json!({
                    "mediaType": media::OCI_MANIFEST, "digest": image.manifest, "size": image.size,
                    "platform": {"os": "linux", "architecture": architecture},
                })
            })
            .collect();
        let index = json!({
            "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries,
        })
        .to_string();
        let kind = media::OCI_INDEX;
        self.registry
            .add_manifest(repository, tag, kind, index.as_bytes())
            .to_string()
    }

    /// How many bytes of a blob the registry has sent.
    pub(crate) fn sent(&self, digest: &Digest) -> u64 {
        let seen = self.registry.seen_of("GET", &digest.to_string());
        seen.iter().map(|seen| seen.sent).sum()
    }

    /// The file of a blob.
    pub(crate) fn blob(&self, digest: &str) -> PathBuf {
        let hex = digest.strip_prefix("sha256:").unwrap();
        self.path().join("content/sha256").join(&hex[..2]).join(hex)
    }

    /// Whole blobs, unpacked layers, names.
    pub(crate) fn counts(&self) -> (usize, usize, usize) {
        let list = |path: PathBuf| -> Vec<String> {
            let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
            entries
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        };
        let shards = list(self.path().join("content/sha256"));
        let blobs = shards
            .iter()
            .map(|shard| list(self.path().join("content/sha256").join(shard)).len());
        let layers = list(self.path().join("layers"));
        let target = |name: &String| std::fs::read_link(self.path().join("layers").join(name));
        let targets: Vec<PathBuf> = layers.iter().filter_map(|name| target(name).ok()).collect();
        // What a pull unpacked has two names.
        let once = |name: &&String| {
            name.len() >= 32 && !(name.ends_with("-pull") && targets.contains(&PathBuf::from(name)))
        };
        (
            blobs.sum(),
            layers.iter().filter(once).count(),
            // Not the records that a killed process was about to write.
            list(self.path().join("images/names"))
                .iter()
                .filter(|name| name.ends_with(".json"))
                .count(),
        )
    }

    /// Lets layers that were pulled be on the disk for good, as after a while.
    pub(crate) fn settle(&self) {
        self.age_layers();
        self.ok(&["prune", "--force"]);
        assert_eq!(self.unsettled(), 0);
    }

    /// Lets layers that were pulled seem to be there for a while.
    pub(crate) fn age_layers(&self) {
        let long_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(120);
        for record in self.unsettled_records() {
            let file = std::fs::File::open(&record).unwrap();
            file.set_modified(long_ago).unwrap();
        }
    }

    /// How many layers are in the page cache only.
    pub(crate) fn unsettled(&self) -> usize {
        self.unsettled_records().len()
    }

    fn unsettled_records(&self) -> Vec<PathBuf> {
        let layers = std::fs::read_dir(self.path().join("layers")).unwrap();
        let real = layers
            .flatten()
            .filter(|layer| layer.file_type().unwrap().is_dir());
        let records = real.map(|layer| layer.path().join("unsettled.json"));
        records.filter(|record| record.exists()).collect()
    }

    /// The fields of lines that a verb prints, by `--format`.
    #[track_caller]
    pub(crate) fn lines(&self, args: &[&str]) -> Vec<String> {
        self.ok(args).lines().map(str::to_owned).collect()
    }
}

/// Lets a field of a line stand for itself: `Size` without its number.
#[track_caller]
pub(crate) fn json_lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}")))
        .collect()
}
