//! Other programs read what we write, and we read what they write: skopeo, buildah, podman, umoci, and
//! Debian's registry.
//!
//! Digests of manifest, configuration and layers are the same on both sides wherever the format has
//! them. `docker-archive` has no manifest, and layers that are not compressed: there it is the digest
//! of the configuration, the image's identifier.

use crate::harness::store::{Image, Shelf, noise};
use crate::harness::{Env, Need, Test, process, test};
use rcrun_image::Digest;
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    let registry = Need::Program("docker-registry");
    let with = |test: Test, tool| test.needs(Need::Program(tool)).timeout(120);
    vec![
        with(test!(skopeo_reads_what_we_write), "skopeo").needs(registry),
        with(test!(we_read_what_skopeo_writes), "skopeo").needs(registry),
        with(test!(buildah_reads_what_we_write), "buildah").needs(registry),
        with(test!(we_read_what_buildah_writes), "buildah").needs(registry),
        with(test!(podman_reads_what_we_write), "podman").needs(registry),
        with(test!(we_read_what_podman_writes), "podman").needs(registry),
        with(test!(umoci_and_we_read_each_other), "umoci"),
    ]
}

/// What identifies an image.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Facts {
    manifest: String,
    config: String,
    layers: Vec<String>,
}

impl Facts {
    fn of(manifest: &[u8]) -> Self {
        let json: Value = serde_json::from_slice(manifest).unwrap();
        let text = |value: &Value| value["digest"].as_str().unwrap().to_owned();
        Self {
            manifest: Digest::of(manifest).to_string(),
            config: text(&json["config"]),
            layers: json["layers"]
                .as_array()
                .unwrap()
                .iter()
                .map(text)
                .collect(),
        }
    }

    /// Of the only image in a layout, or the one with this tag.
    fn of_layout(layout: &Path, tag: Option<&str>) -> Self {
        let index: Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let entries = index["manifests"].as_array().unwrap();
        let is = |entry: &&Value| {
            let name = entry["annotations"]["org.opencontainers.image.ref.name"].as_str();
            tag.is_none() || name == tag
        };
        let entry = entries.iter().find(is).unwrap();
        let path = entry["digest"].as_str().unwrap().replace(':', "/");
        Self::of(&fs::read(layout.join("blobs").join(path)).unwrap())
    }
}

/// An image, a registry of another make, and other people's tools with storage of their own.
struct Place<'a> {
    env: &'a Env,
    shelf: Shelf<'a>,
    registry: Option<Child>,
    host: String,
    /// A layout with the image, which has the tag `v1`.
    source: PathBuf,
    want: Facts,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if let Some(mut registry) = self.registry.take() {
            registry.kill().unwrap();
            registry.wait().unwrap();
        }
    }
}

impl<'a> Place<'a> {
    fn new(env: &'a Env) -> Self {
        let shelf = Shelf::new(env);
        let image = Image::new(&super::trees::layers());
        shelf.publish("app:1", &image);
        let name = shelf.name("app:1");
        shelf.ok(&["pull", "-q", &name]);
        let source = env.path("source");
        let to = format!("oci:{}:v1", source.display());
        shelf.ok(&["push", "-q", "--compression", "gzip", &name, &to]);
        let want = Facts::of_layout(&source, Some("v1"));
        let mut place = Self {
            env,
            shelf,
            registry: None,
            host: String::new(),
            source,
            want,
        };
        place.wipe();
        if process::which(Path::new("docker-registry")).is_some() {
            place.start();
        }
        place
    }

    fn start(&mut self) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        self.host = listener.local_addr().unwrap().to_string();
        drop(listener);
        let settings = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: {}}}\n",
            self.env.path("registry").display(),
            self.host
        );
        let file = self.env.path("registry.yml");
        fs::write(&file, settings).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.registry = Some(child.unwrap());
        let start = Instant::now();
        while TcpStream::connect(&self.host).is_err() {
            assert!(start.elapsed() < Duration::from_secs(20), "no registry");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn name(&self, name: &str) -> String {
        format!("{}/{name}", self.host)
    }

    fn at(&self, transport: &str, name: &str) -> String {
        format!("{transport}:{}", self.env.path(name).display())
    }

    /// The source as other tools call it.
    fn source(&self) -> String {
        format!("oci:{}:v1", self.source.display())
    }

    /// Takes the image into our store, with a name.
    fn take(&self) -> String {
        self.shelf.ok(&["pull", "-q", &self.source()]);
        let name = self.name("app:1");
        self.shelf.ok(&["tag", &self.want.config, &name]);
        name
    }

    /// Empties our store.
    fn wipe(&self) {
        for id in self.shelf.lines(&["images", "-q", "--no-trunc"]) {
            self.shelf.call(&["rmi", "-f", &id]);
        }
        self.shelf.ok(&["prune", "-f", "-a"]);
        assert_eq!(self.shelf.counts(), (0, 0, 0));
    }

    /// What our store has, as we lay it out; the store is empty then.
    #[track_caller]
    fn ours(&self) -> Facts {
        let mut ids = self.shelf.lines(&["images", "-q", "--no-trunc"]);
        ids.dedup();
        let [id] = ids.as_slice() else {
            panic!("images: {ids:?}");
        };
        let layout = self.env.path("ours");
        self.shelf
            .ok(&["push", "-q", id, &format!("oci:{}:x", layout.display())]);
        let facts = Facts::of_layout(&layout, Some("x"));
        fs::remove_dir_all(layout).unwrap();
        self.shelf.ok(&["fsck", "-q"]);
        self.wipe();
        facts
    }

    /// We pull this, and have the same.
    #[track_caller]
    fn we_pull(&self, from: &str, want: &Facts) {
        self.shelf.ok(&["pull", "-q", from]);
        assert_eq!(self.ours(), *want, "{from}");
    }

    /// The same of an archive, which is loaded as well; `whole` if it has a manifest.
    #[track_caller]
    fn we_load(&self, transport: &str, file: &str, want: &Facts) {
        let path = self.env.path(file);
        let pulled = format!("{transport}:{}", path.display());
        for words in [
            ["load", "-q", "-i", path.to_str().unwrap()].as_slice(),
            &["pull", "-q", &pulled],
        ] {
            self.shelf.ok(words);
            let came = self.ours();
            match transport {
                "docker-archive" => assert_eq!(came.config, want.config, "{words:?}"),
                _ => assert_eq!(came, *want, "{words:?}"),
            }
        }
    }

    /// Another program's storage, below the test's directory.
    fn tool(&self, tool: &str, words: &[&str]) -> Command {
        let mut command = Command::new(tool);
        if tool != "skopeo" && tool != "umoci" {
            let root = format!("--root={}", self.env.path("theirs").display());
            let run = format!("--runroot={}", self.env.path("run").display());
            command.args([&root, &run, "--storage-driver=vfs"]);
        }
        if tool == "podman" {
            let temporary = self.env.path("podman");
            command.arg(format!("--tmpdir={}", temporary.display()));
        }
        command.args(words).env("HOME", self.env.path("home"));
        command
    }

    #[track_caller]
    fn run(&self, tool: &str, words: &[&str]) -> String {
        let output = self.tool(tool, words).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        println!("{tool} {words:?} -> {}", output.status);
        assert!(
            output.status.success(),
            "{}{}",
            text(&output.stdout),
            text(&output.stderr)
        );
        text(&output.stdout).trim_end().to_owned()
    }

    #[track_caller]
    fn skopeo(&self, words: &[&str]) {
        self.run("skopeo", &[&["copy", "-q"], words].concat());
    }

    /// What a place has, as skopeo says.
    #[track_caller]
    fn raw(&self, at: &str) -> Facts {
        let words = ["inspect", "--raw", "--tls-verify=false", at];
        let output = self.tool("skopeo", &words).output().unwrap();
        assert!(output.status.success(), "{at}: {output:?}");
        Facts::of(&output.stdout)
    }

    /// What they pushed to the registry, which we pull, and push back as it is. A manifest of Docker's
    /// becomes one of OCI's in layouts only, so of that the digest is another one then.
    #[track_caller]
    fn in_registry(&self, name: &str) -> Facts {
        self.shelf.ok(&["pull", "-q", &self.name(name)]);
        let back = self.name(&format!("back/{name}"));
        let pushed = self.shelf.ok(&["push", "-q", &self.name(name), &back]);
        let digest = ["images", "--digests", "--format", "{Digest}"];
        assert_eq!(self.shelf.ok(&digest), pushed);
        let facts = self.ours();
        assert_eq!(facts.manifest == pushed.trim(), !name.ends_with(":docker"));
        facts
    }

    /// The image that podman or buildah has just got; they have none afterwards.
    #[track_caller]
    fn theirs(&self, tool: &str) -> String {
        let ids = self.run(tool, &["images", "-q", "--no-trunc"]);
        self.run(tool, &["rmi", "-f", &ids]);
        ids
    }
}

fn skopeo_reads_what_we_write(env: &Env) {
    let place = Place::new(env);
    let name = place.take();
    let (shelf, want) = (&place.shelf, &place.want);
    shelf.ok(&["push", "-q", &name]);
    assert_eq!(place.raw(&format!("docker://{name}")), *want);
    let from = format!("docker://{name}");
    place.skopeo(&["--src-tls-verify=false", &from, &place.at("oci", "copy")]);
    assert_eq!(Facts::of_layout(&env.path("copy"), None), *want);
    let layout = place.at("oci", "layout") + ":1";
    shelf.ok(&["push", "-q", &name, &layout]);
    assert_eq!(place.raw(&layout), *want);
    let archive = env.path("oci.tar");
    shelf.ok(&[
        "save",
        "--format",
        "oci",
        "-o",
        archive.to_str().unwrap(),
        &name,
    ]);
    assert_eq!(place.raw(&place.at("oci-archive", "oci.tar")), *want);
    let archive = env.path("docker.tar");
    shelf.ok(&["save", "-o", archive.to_str().unwrap(), &name]);
    let from = place.at("docker-archive", "docker.tar");
    let config = place
        .tool("skopeo", &["inspect", "--config", "--raw", &from])
        .output();
    let config = Digest::of(&config.unwrap().stdout).to_string();
    assert_eq!(config, want.config);
    // Its layers can be copied, too: skopeo checks them.
    place.skopeo(&[&from, &place.at("dir", "unpacked")]);
}

fn we_read_what_skopeo_writes(env: &Env) {
    let place = Place::new(env);
    let (source, want) = (place.source(), &place.want);
    place.skopeo(&[&source, &(place.at("oci", "layout") + ":1")]);
    place.we_pull(&(place.at("oci", "layout") + ":1"), want);
    place.skopeo(&[&source, &(place.at("oci-archive", "oci.tar") + ":1")]);
    place.we_load("oci-archive", "oci.tar", want);
    place.skopeo(&[
        &source,
        &(place.at("docker-archive", "docker.tar") + ":a/b:1"),
    ]);
    place.we_load("docker-archive", "docker.tar", want);
    let insecure = "--dest-tls-verify=false";
    let name = place.name("skopeo:1");
    place.skopeo(&[insecure, &source, &format!("docker://{name}")]);
    place.we_pull(&name, want);
    // Docker's manifest stays what it is, there and back.
    let (docker, back) = (place.name("skopeo:docker"), place.name("back:docker"));
    place.skopeo(&[
        insecure,
        "--format=v2s2",
        &source,
        &format!("docker://{docker}"),
    ]);
    let other = place.raw(&format!("docker://{docker}"));
    assert_ne!(other.manifest, want.manifest);
    place.shelf.ok(&["pull", "-q", &docker]);
    place.shelf.ok(&["push", "-q", &docker, &back]);
    assert_eq!(place.raw(&format!("docker://{back}")), other);
    place.wipe();
    let zstd = place.name("skopeo:zstd");
    let to = format!("docker://{zstd}");
    place.skopeo(&[insecure, "--dest-compress-format=zstd", &source, &to]);
    place.we_pull(&zstd, &place.raw(&to));
}

/// podman and buildah have one kind of storage and the same names of verbs.
fn read_what_we_write(env: &Env, tool: &str) {
    let place = Place::new(env);
    let name = place.take();
    let want = place.want.config.clone();
    let bare = want.strip_prefix("sha256:").unwrap();
    let pull = |from: &str| {
        place.run(tool, &["pull", "-q", "--tls-verify=false", from]);
        let got = place.theirs(tool);
        assert_eq!(got.strip_prefix("sha256:").unwrap_or(&got), bare, "{from}");
    };
    place.shelf.ok(&["push", "-q", &name]);
    pull(&name);
    let layout = place.at("oci", "layout") + ":1";
    place.shelf.ok(&["push", "-q", &name, &layout]);
    pull(&layout);
    for (format, transport) in [("oci", "oci-archive"), ("docker", "docker-archive")] {
        let file = env.path(format);
        let file = file.to_str().unwrap();
        place
            .shelf
            .ok(&["save", "--format", format, "-o", file, &name]);
        pull(&place.at(transport, format));
        if tool == "podman" {
            let said = place.run(tool, &["load", "-q", "-i", file]);
            assert!(said.contains(&name), "{said}");
            assert_eq!(place.theirs(tool).strip_prefix("sha256:"), Some(bare));
        }
    }
}

fn buildah_reads_what_we_write(env: &Env) {
    read_what_we_write(env, "buildah");
}

fn podman_reads_what_we_write(env: &Env) {
    read_what_we_write(env, "podman");
}

/// What both of them can write; the configuration is in any case what it was.
fn read_what_they_push<'a>(env: &'a Env, tool: &str) -> (Place<'a>, String) {
    let place = Place::new(env);
    place.run(tool, &["pull", "-q", &place.source()]);
    let id = place.run(tool, &["images", "-q", "--no-trunc"]);
    let name = place.name("theirs:1");
    place.run(tool, &["tag", &id, &name]);
    let push = |to: &str| place.run(tool, &["push", "-q", "--tls-verify=false", &name, to]);
    push(&format!("docker://{name}"));
    assert_eq!(place.in_registry("theirs:1").config, place.want.config);
    push(&(place.at("oci", "layout") + ":1"));
    let laid = Facts::of_layout(&env.path("layout"), None);
    assert_eq!(laid.config, place.want.config);
    place.we_pull(&(place.at("oci", "layout") + ":1"), &laid);
    push(&(place.at("oci-archive", "oci.tar") + ":1"));
    place.we_load("oci-archive", "oci.tar", &laid);
    push(&(place.at("docker-archive", "docker.tar") + ":a/b:1"));
    place.we_load("docker-archive", "docker.tar", &place.want);
    (place, name)
}

fn we_read_what_buildah_writes(env: &Env) {
    let (place, name) = read_what_they_push(env, "buildah");
    let container = place.run("buildah", &["from", "--pull-never", &name]);
    let root = place.run("buildah", &["mount", &container]);
    fs::write(Path::new(&root).join("made"), noise(10_000, 1)).unwrap();
    place.run("buildah", &["umount", &container]);
    for format in ["oci", "docker"] {
        let image = format!("made:{format}");
        place.run(
            "buildah",
            &["commit", "-q", "--format", format, &container, &image],
        );
        let layout = place.at("oci", format) + ":1";
        let to = format!("docker://{}", place.name(&image));
        let words = ["push", "-q", "--tls-verify=false", &image, &to];
        place.run("buildah", &words);
        let pushed = place.in_registry(&image);
        assert_eq!(pushed.layers.len(), place.want.layers.len() + 1);
        if format == "oci" {
            place.run("buildah", &["push", "-q", &image, &layout]);
            assert_eq!(Facts::of_layout(&env.path(format), None), pushed);
        }
    }
    place.run("buildah", &["rm", "-a"]);
}

fn we_read_what_podman_writes(env: &Env) {
    let (place, name) = read_what_they_push(env, "podman");
    for (format, transport) in [
        ("docker-archive", "docker-archive"),
        ("oci-archive", "oci-archive"),
    ] {
        let file = env.path(&format!("saved-{format}"));
        let words = [
            "save",
            "-q",
            "--format",
            format,
            "-o",
            file.to_str().unwrap(),
            &name,
        ];
        place.run("podman", &words);
        let mut want = place.want.clone();
        if format == "oci-archive" {
            let layout = env.directory("opened");
            let mut tar = Command::new("tar");
            tar.arg("-xf").arg(&file).arg("-C").arg(&layout);
            assert!(tar.status().unwrap().success());
            want = Facts::of_layout(&layout, None);
            assert_eq!(want.config, place.want.config);
        }
        place.we_load(transport, &format!("saved-{format}"), &want);
    }
}

fn umoci_and_we_read_each_other(env: &Env) {
    let place = Place::new(env);
    let name = place.take();
    let layout = env.path("layout");
    place
        .shelf
        .ok(&["push", "-q", &name, &format!("oci:{}:1", layout.display())]);
    let image = format!("{}:1", layout.display());
    let bundle = env.path("bundle");
    place.run(
        "umoci",
        &["unpack", "--image", &image, bundle.to_str().unwrap()],
    );
    fs::write(bundle.join("rootfs/made"), "z").unwrap();
    let made = format!("{}:made", layout.display());
    place.run(
        "umoci",
        &["repack", "--image", &made, bundle.to_str().unwrap()],
    );
    let want = Facts::of_layout(&layout, Some("made"));
    assert_eq!(want.layers.len(), place.want.layers.len() + 1);
    place.wipe();
    place.we_pull(&format!("oci:{}:made", layout.display()), &want);
    // What we write beside theirs does not disturb it.
    place.we_pull(&format!("oci:{image}"), &place.want);
}
