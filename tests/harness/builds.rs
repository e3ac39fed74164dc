//! Builds: a store with a small base image, contexts, and what comes out of a Dockerfile.

use super::people::layer;
use super::runtime::Running;
use super::store::{Image, Published, Shelf};
use super::tree::attributes;
use super::users::inside;
use super::{Env, Output};
use rcrun_image::catalog;
use rcrun_image::pull::Way;
use rcrun_overlay::layer::Overlay;
use rcrun_overlay::snapshot::{Mounting, Stack};
use rcrun_overlay::store::Store;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// When the base image was made, and with it the time of everything that is built upon it.
pub(crate) const BASE_TIME: i64 = 1_767_323_046;

/// A store with the image `base`: busybox, `/etc/passwd` and `/etc/group` of the base root file system.
pub(crate) struct Builds<'a> {
    pub(crate) env: &'a Env,
    pub(crate) shelf: Shelf<'a>,
}

/// A build that ended.
#[derive(Clone, Debug)]
pub(crate) struct Build {
    pub(crate) output: Output,
    /// What `--metadata-file` says; null if it failed.
    pub(crate) metadata: Value,
    /// In the order in which they ended.
    pub(crate) steps: Vec<Step>,
    store: PathBuf,
}

/// A step that ended well.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    /// `[stage 1/2] RUN make`
    pub(crate) title: String,
    pub(crate) cached: bool,
    /// What `--explain` says.
    pub(crate) why: String,
    /// What it wrote, both streams.
    pub(crate) said: String,
}

/// A file of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// `f`, `d`, `l`, `c`, `b`, `p` or `s`.
    pub(crate) kind: char,
    pub(crate) mode: u32,
    pub(crate) owner: (u32, u32),
    pub(crate) modified: (i64, i64),
    /// Of a file, or a link's target.
    pub(crate) content: Vec<u8>,
    pub(crate) attributes: BTreeMap<Vec<u8>, Vec<u8>>,
    pub(crate) links: u64,
}

impl std::fmt::Display for File {
    /// `f 644 0:0 content`, `d 755 0:0`, `l target`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let content = String::from_utf8_lossy(&self.content);
        let (user, group) = self.owner;
        match self.kind {
            'l' if self.owner == (0, 0) => write!(f, "l {content}"),
            'l' => write!(f, "l {user}:{group} {content}"),
            kind => {
                write!(f, "{kind} {:o} {user}:{group}", self.mode)?;
                match content.is_empty() {
                    true => Ok(()),
                    false => write!(f, " {}", content.trim_end()),
                }
            }
        }
    }
}

/// Files by path, without the slash in front; the root itself is the empty path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Files(pub(crate) BTreeMap<String, File>);

/// A Dockerfile with its context, and what it has to give. `expected` are lines `PATH: FILE` as [`File`] is
/// shown, or `PATH: -` for what must not be there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Case<'a> {
    /// The behaviour.
    pub(crate) name: &'a str,
    pub(crate) flags: &'a [&'a str],
    pub(crate) dockerfile: &'a str,
    pub(crate) context: &'a [(&'a str, &'a str)],
    pub(crate) expected: &'a [(&'a str, &'a str)],
    /// Instead of files: a part of the error.
    pub(crate) fails: &'a str,
}

impl Case<'_> {
    pub(crate) const NONE: Self = Self {
        name: "",
        flags: &[],
        dockerfile: "",
        context: &[],
        expected: &[],
        fails: "",
    };
}

/// Writes a context: `name` with content, `name/` for a directory, `name -> target` for a link.
pub(crate) fn fill(directory: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = |name: &str| {
            let path = directory.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            path
        };
        if let Some((name, target)) = name.split_once(" -> ") {
            symlink(target, path(name)).unwrap();
        } else if name.ends_with('/') {
            fs::create_dir_all(directory.join(name)).unwrap();
        } else {
            let path = path(name);
            fs::write(&path, content).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        }
    }
}

impl<'a> Builds<'a> {
    pub(crate) fn new(env: &'a Env) -> Self {
        Self::upon(env, Shelf::new(env))
    }

    /// In a store of which something is special.
    pub(crate) fn upon(env: &'a Env, shelf: Shelf<'a>) -> Self {
        let builds = Self { env, shelf };
        builds.publish(
            "base",
            &[layer(env, &[])],
            json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]}),
        );
        builds
    }

    /// Publishes another image, pulls it, and calls it by its bare name.
    pub(crate) fn publish(&self, name: &str, layers: &[Vec<u8>], config: Value) -> Published {
        let mut image = Image::new(layers);
        image.config = config;
        let published = self.shelf.publish(name, &image);
        let full = self.shelf.name(name);
        self.shelf.ok(&["pull", "--quiet", &full]);
        self.shelf.ok(&["tag", &full, name]);
        published
    }

    /// A directory that did not exist, with these files.
    pub(crate) fn context(&self, files: &[(&str, &str)]) -> PathBuf {
        let path = self.env.path(&format!("context-{}", self.env.unique()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        fill(&path, files);
        path
    }

    /// A context that is nothing but a Dockerfile.
    pub(crate) fn dockerfile(&self, text: &str) -> PathBuf {
        self.context(&[("Dockerfile", text)])
    }

    /// `build` with flags, of a context.
    pub(crate) fn command(&self, flags: &[&str], context: &Path) -> Command {
        let parent = format!("--cgroup-parent={}", self.env.tag);
        // An ordinary user has no cgroup here.
        let parent = self.env.user.is_none().then_some(parent.as_str());
        let words = [
            &["build", "--progress=rawjson"],
            parent.as_slice(),
            flags,
            &[context.to_str().unwrap()],
        ];
        self.shelf.command(&words.concat())
    }

    /// Builds, and returns what came of it.
    #[track_caller]
    pub(crate) fn build(&self, flags: &[&str], context: &Path) -> Build {
        self.build_within(flags, context, Duration::from_secs(50))
    }

    #[track_caller]
    pub(crate) fn build_within(&self, flags: &[&str], context: &Path, limit: Duration) -> Build {
        let metadata = self.env.path(&format!("metadata-{}", self.env.unique()));
        let flag = format!("--metadata-file={}", metadata.display());
        let flags = [&[flag.as_str()], flags].concat();
        let running = self.env.rt.spawn(self.command(&flags, context));
        self.finish(running, &metadata, limit)
    }

    /// The end of a build that was started elsewhere with this `--metadata-file`.
    #[track_caller]
    pub(crate) fn finish(&self, running: Running, metadata: &Path, limit: Duration) -> Build {
        let output = self.env.rt.finish_within(running, limit);
        let text = fs::read_to_string(metadata);
        let _ = fs::remove_file(metadata);
        Build {
            steps: steps(&output.stderr),
            metadata: text.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap()),
            store: self.shelf.path(),
            output,
        }
    }

    /// Builds a Dockerfile with a context of these files, which succeeds.
    #[track_caller]
    pub(crate) fn of(&self, flags: &[&str], dockerfile: &str, files: &[(&str, &str)]) -> Build {
        let context = self.context(&[&[("Dockerfile", dockerfile)], files].concat());
        self.build(flags, &context).ok()
    }

    /// Tries one case after the other, and fails with all that are wrong.
    #[track_caller]
    pub(crate) fn table(&self, cases: &[Case<'_>]) {
        let mut wrong = Vec::new();
        for case in cases {
            let context =
                self.context(&[&[("Dockerfile", case.dockerfile)], case.context].concat());
            let build = self.build(case.flags, &context);
            if let Some(text) = build.judge(case) {
                wrong.push(format!("{}: {text}\n{}", case.name, build.output));
            }
            let _ = fs::remove_dir_all(&context);
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n----\n"));
    }

    /// Nothing is left but what the store keeps on purpose.
    #[track_caller]
    pub(crate) fn assert_settled(&self) {
        let path = self.shelf.path();
        for place in ["build/steps", "build/locks", "layers/incoming"] {
            let left: Vec<PathBuf> = fs::read_dir(path.join(place))
                .into_iter()
                .flatten()
                .map(|entry| entry.unwrap().path())
                .collect();
            assert!(left.is_empty(), "{place} is not empty: {left:?}");
        }
    }
}

/// The steps of a `--progress rawjson`; other lines are errors.
pub(crate) fn steps(text: &str) -> Vec<Step> {
    let mut open: BTreeMap<u64, Step> = BTreeMap::new();
    let mut over = Vec::new();
    for line in text.lines() {
        let Ok(event) = serde_json::from_str::<Value>(line) else {
            continue;
        };
        let Some(number) = event["step"].as_u64() else {
            continue;
        };
        let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        match event["event"].as_str() {
            Some("started") => {
                let step = Step {
                    title: word("title"),
                    cached: false,
                    why: String::new(),
                    said: String::new(),
                };
                open.insert(number, step);
            }
            Some("explained") => open.get_mut(&number).unwrap().why = word("why"),
            Some("output") => open.get_mut(&number).unwrap().said.push_str(&word("data")),
            Some("done") => {
                let mut step = open.remove(&number).unwrap();
                step.cached = event["cached"].as_bool().unwrap();
                over.push(step);
            }
            _ => {}
        }
    }
    over
}

impl Build {
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.output.code, 0, "exit code of\n{}", self.output);
        self
    }

    /// It failed, and its error names this.
    #[track_caller]
    pub(crate) fn fails(self, text: &str) -> Self {
        let output = self.output.clone().fails();
        output.says(text);
        self
    }

    /// Digest of the manifest, or of the index.
    #[track_caller]
    pub(crate) fn digest(&self) -> String {
        let digest = self.metadata["containerimage.digest"].as_str();
        digest
            .unwrap_or_else(|| panic!("no image:\n{}", self.output))
            .to_owned()
    }

    /// Digest of the configuration.
    #[track_caller]
    pub(crate) fn id(&self) -> String {
        let digest = self.metadata["containerimage.config.digest"].as_str();
        digest
            .unwrap_or_else(|| panic!("no image:\n{}", self.output))
            .to_owned()
    }

    /// A document or layer of the store.
    #[track_caller]
    pub(crate) fn blob(&self, digest: &str) -> Vec<u8> {
        let hex = digest.strip_prefix("sha256:").unwrap();
        let path = self.store.join("content/sha256").join(&hex[..2]).join(hex);
        fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// The manifest or the index.
    #[track_caller]
    pub(crate) fn manifest(&self) -> Value {
        serde_json::from_slice(&self.blob(&self.digest())).unwrap()
    }

    /// The whole configuration.
    #[track_caller]
    pub(crate) fn document(&self) -> Value {
        serde_json::from_slice(&self.blob(&self.id())).unwrap()
    }

    /// What a container of it is to be.
    #[track_caller]
    pub(crate) fn config(&self) -> Value {
        self.document()["config"].clone()
    }

    /// All files, read through its layers.
    #[track_caller]
    pub(crate) fn files(&self) -> Files {
        let digest = self.digest().parse().unwrap();
        let store = Store::open(&self.store).unwrap();
        let image = catalog::Image::read(&store.content(), &digest).unwrap();
        let (way, marks) = match super::users::wanted() {
            true => (Way::Rootless, Overlay::User),
            false => (Way::Privileged, Overlay::Trusted),
        };
        let layers = image.unwrap().layers(way).unwrap();
        if layers.is_empty() {
            return Files(BTreeMap::new());
        }
        let stack = Stack::open(&store, &layers, marks).unwrap();
        let root = stack.detached(&Mounting::default()).unwrap();
        let path = format!("/proc/self/fd/{}/.", root.as_raw_fd());
        Files::read(Path::new(&path))
    }

    /// Titles of steps that were done.
    pub(crate) fn done(&self) -> Vec<&str> {
        self.titles(false)
    }

    /// Titles of steps that were taken from the cache.
    pub(crate) fn cached(&self) -> Vec<&str> {
        self.titles(true)
    }

    fn titles(&self, cached: bool) -> Vec<&str> {
        let steps = self.steps.iter().filter(|step| step.cached == cached);
        steps.map(|step| step.title.as_str()).collect()
    }

    /// The step whose title has this in it.
    #[track_caller]
    pub(crate) fn step(&self, part: &str) -> &Step {
        let step = self.steps.iter().find(|step| step.title.contains(part));
        step.unwrap_or_else(|| panic!("no step {part:?} in\n{}", self.output))
    }

    /// What is wrong with it.
    fn judge(&self, case: &Case<'_>) -> Option<String> {
        if !case.fails.is_empty() {
            let said = self.output.stderr.to_lowercase();
            return match self.output.code {
                0 => Some(format!("should have failed with {:?}", case.fails)),
                1..=127 if said.contains(&case.fails.to_lowercase()) => None,
                _ => Some(format!("the error does not say {:?}", case.fails)),
            };
        }
        if self.output.code != 0 {
            return Some("failed".to_owned());
        }
        if case.expected.is_empty() {
            return None;
        }
        let files = self.files();
        let wrong = case.expected.iter().filter_map(|(path, expected)| {
            let found = files.line(path);
            (found != *expected).then(|| format!("{path} is {found:?}, not {expected:?}"))
        });
        let wrong: Vec<String> = wrong.collect();
        (!wrong.is_empty()).then(|| wrong.join("\n"))
    }
}

impl Files {
    /// The files below a directory.
    pub(crate) fn read(root: &Path) -> Self {
        let mut found = BTreeMap::new();
        let mut todo = vec![String::new()];
        while let Some(path) = todo.pop() {
            let full = root.join(&path);
            let file = File::read(&full);
            if file.kind == 'd' {
                for entry in fs::read_dir(&full).unwrap() {
                    let name = entry.unwrap().file_name();
                    let name = name.to_string_lossy();
                    todo.push(match path.as_str() {
                        "" => name.into_owned(),
                        path => format!("{path}/{name}"),
                    });
                }
            }
            found.insert(path, file);
        }
        Self(found)
    }

    /// A file in one line, `-` if there is none.
    pub(crate) fn line(&self, path: &str) -> String {
        let file = self.0.get(path.trim_start_matches('/'));
        file.map_or_else(|| "-".to_owned(), ToString::to_string)
    }

    /// Paths below a directory, itself excluded.
    pub(crate) fn below(&self, directory: &str) -> Vec<String> {
        let prefix = match directory {
            "" => String::new(),
            directory => format!("{directory}/"),
        };
        let paths = self.0.keys().filter(|path| !path.is_empty());
        let below = paths.filter_map(|path| path.strip_prefix(&prefix));
        below.map(str::to_owned).collect()
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> &File {
        let file = self.0.get(path.trim_start_matches('/'));
        file.unwrap_or_else(|| panic!("no {path}"))
    }

    #[track_caller]
    pub(crate) fn text(&self, path: &str) -> String {
        String::from_utf8(self.get(path).content.clone()).unwrap()
    }
}

impl File {
    fn read(path: &Path) -> Self {
        let stat = fs::symlink_metadata(path).unwrap();
        let kind = stat.file_type();
        let (kind, content) = match () {
            () if kind.is_file() => ('f', fs::read(path).unwrap()),
            () if kind.is_dir() => ('d', Vec::new()),
            () if kind.is_symlink() => {
                let target = fs::read_link(path).unwrap();
                ('l', target.into_os_string().into_encoded_bytes())
            }
            () if kind.is_char_device() => ('c', Vec::new()),
            () if kind.is_block_device() => ('b', Vec::new()),
            () if kind.is_fifo() => ('p', Vec::new()),
            () => ('s', Vec::new()),
        };
        Self {
            kind,
            mode: stat.mode() & 0o7777,
            owner: (inside(stat.uid()), inside(stat.gid())),
            modified: (stat.mtime(), stat.mtime_nsec()),
            content,
            attributes: attributes(path),
            links: stat.nlink(),
        }
    }
}
