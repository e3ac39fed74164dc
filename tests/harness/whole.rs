//! What a store has to be, whatever happened to it: everything that counts as there is whole.

use super::process;
use super::store::{Image, Shelf, noise};
use rcrun_image::Digest;
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// A file or directory of a layer: kind, mode, size, digest of what is in it.
type Node = (char, u32, u64, String);

/// What is in a layer, by path.
type Tree = BTreeMap<PathBuf, Node>;

/// Every layer that images of this test have, by its name in the store.
#[derive(Debug, Default)]
pub(crate) struct Known {
    trees: BTreeMap<String, Tree>,
    names: Vec<String>,
}

/// What was found.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) blobs: usize,
    pub(crate) layers: usize,
    pub(crate) files: usize,
    pub(crate) names: usize,
}

impl std::ops::AddAssign for Found {
    fn add_assign(&mut self, more: Self) {
        self.blobs += more.blobs;
        self.layers += more.layers;
        self.files += more.files;
        self.names += more.names;
    }
}

/// A layer of so many files of different sizes and modes, none of them empty.
pub(crate) fn mixed(name: &str, files: usize, seed: u64) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    let mut add = |path: String, kind, mode, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, content).unwrap();
    };
    let modes = [0o644, 0o755, 0o600, 0o4755, 0o2711, 0o444];
    for number in 0..files {
        if number % 8 == 0 {
            let directory = format!("{name}/d{}/", number / 8);
            add(directory, tar::EntryType::Directory, 0o750, &[]);
        }
        let path = format!("{name}/d{}/f{number}", number / 8);
        let length = 1 + (number * 7919 + 13) % 30_000;
        let content = noise(length, seed * 1000 + number as u64);
        let mode = modes[number % modes.len()];
        add(path, tar::EntryType::Regular, mode, &content);
    }
    builder.into_inner().unwrap()
}

/// What an archive says.
fn tree_of(archive: &[u8]) -> Tree {
    let mut tree = Tree::new();
    for entry in tar::Archive::new(archive).entries().unwrap() {
        let mut entry = entry.unwrap();
        let path: PathBuf = entry.path().unwrap().components().collect();
        let header = entry.header();
        let mode = header.mode().unwrap();
        let node = match header.entry_type() {
            tar::EntryType::Directory => ('d', mode, 0, String::new()),
            tar::EntryType::Symlink => {
                let target = entry.link_name().unwrap().unwrap();
                ('l', 0o777, 0, target.to_string_lossy().into_owned())
            }
            _ => {
                let mut content = Vec::new();
                std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
                let size = content.len() as u64;
                ('f', mode, size, Digest::of(&content).to_string())
            }
        };
        tree.insert(path, node);
    }
    tree
}

/// What is on the disk.
fn tree_at(top: &Path, directory: &Path, into: &mut Tree) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let data = fs::symlink_metadata(&path).unwrap();
        let mode = data.mode() & 0o7777;
        let node = if data.is_dir() {
            tree_at(top, &path, into);
            ('d', mode, 0, String::new())
        } else if data.is_symlink() {
            let target = fs::read_link(&path).unwrap();
            ('l', 0o777, 0, target.to_string_lossy().into_owned())
        } else {
            let content = fs::read(&path).unwrap();
            let digest = Digest::of(&content).to_string();
            ('f', mode, data.len(), digest)
        };
        into.insert(path.strip_prefix(top).unwrap().to_owned(), node);
    }
}

/// Names of a directory's entries that are so long.
fn entries(directory: &Path, length: usize) -> Vec<String> {
    let all = fs::read_dir(directory).into_iter().flatten().flatten();
    let names = all.map(|entry| entry.file_name().into_string().unwrap());
    names.filter(|name| name.len() == length).collect()
}

impl Known {
    /// Publishes an image, and remembers what its layers are.
    pub(crate) fn publish(&mut self, shelf: &Shelf<'_>, name: &str, image: &Image) {
        shelf.publish(name, image);
        self.names.push(shelf.name(name));
        let diff_ids: Vec<Digest> = image.layers.iter().map(|one| Digest::of(one)).collect();
        for (id, layer) in chains(&diff_ids).into_iter().zip(&image.layers) {
            self.trees.insert(id, tree_of(layer));
        }
    }

    /// Lets another name be there.
    pub(crate) fn also(&mut self, name: &str) {
        self.names.push(name.to_owned());
    }

    /// Every blob, layer and name of the store is what it says, and nothing lacks anything.
    #[track_caller]
    pub(crate) fn check(&self, store: &Path) -> Found {
        let mut found = Found::default();
        let content = store.join("content/sha256");
        for shard in entries(&content, 2) {
            for hex in entries(&content.join(&shard), 64) {
                let path = content.join(&shard).join(&hex);
                let digest = Digest::of(&fs::read(&path).unwrap());
                assert_eq!(digest.hex(), hex, "a blob is there and damaged");
                let mode = fs::metadata(&path).unwrap().permissions().mode();
                assert_eq!(mode & 0o7777, 0o444, "{hex}");
                found.blobs += 1;
            }
        }
        for id in entries(&store.join("layers"), 64) {
            // What was never synced counts as long as this is the file system that it was written to.
            if !counts(store, &id) {
                continue;
            }
            let expected = self.trees.get(&id);
            let expected = expected.unwrap_or_else(|| panic!("layer {id} is of no image"));
            let mut tree = Tree::new();
            let diff = store.join("layers").join(&id).join("diff");
            tree_at(&diff, &diff, &mut tree);
            // Directories that an archive does not have are made where files need them.
            tree.retain(|path, node| {
                expected.contains_key(path)
                    || node.0 != 'd'
                    || !expected.keys().any(|known| known.starts_with(path))
            });
            let differ = |path: &&PathBuf| tree.get(*path) != expected.get(*path);
            let damaged = expected.keys().chain(tree.keys()).find(differ);
            if let Some(path) = damaged {
                let (is, should) = (tree.get(path), expected.get(path));
                panic!("layer {id} counts as there, and {path:?} is {is:?}, not {should:?}");
            }
            found.files += tree.len();
            found.layers += 1;
        }
        for entry in fs::read_dir(store.join("images/names")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|kind| kind == "json") {
                self.check_name(store, &path);
                found.names += 1;
            }
        }
        found
    }

    #[track_caller]
    fn check_name(&self, store: &Path, path: &Path) {
        let record: Value = serde_json::from_slice(&fs::read(path).unwrap())
            .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let name = record["name"].as_str().unwrap();
        let known = self.names.iter().any(|known| name.contains(known.as_str()));
        assert!(known, "nobody made {name}");
        let document = |digest: &Value| -> Value {
            let hex = digest.as_str().unwrap().strip_prefix("sha256:").unwrap();
            let path = store.join("content/sha256").join(&hex[..2]).join(hex);
            let bytes = fs::read(path).unwrap_or_else(|e| panic!("{name} dangles: {hex}: {e}"));
            serde_json::from_slice(&bytes).unwrap_or_default()
        };
        let manifest = document(&record["target"]["digest"]);
        let config = document(&manifest["config"]["digest"]);
        for layer in manifest["layers"].as_array().unwrap() {
            document(&layer["digest"]);
        }
        let diff_ids = config["rootfs"]["diff_ids"].as_array().unwrap().iter();
        let diff_ids: Vec<Digest> = diff_ids
            .map(|id| id.as_str().unwrap().parse().unwrap())
            .collect();
        // A layer may be missing: it is unpacked again from its blob.
        for id in chains(&diff_ids) {
            let link = store.join("layers").join(&id);
            let known = self.trees.contains_key(&id) || !link.exists();
            assert!(known, "{name} has a layer of no image, {id}");
        }
    }
}

/// Whether a layer counts as there: it was synced, or what was written is in the page cache still.
pub(crate) fn counts(store: &Path, id: &str) -> bool {
    let layer = store.join("layers").join(id);
    if !layer.is_symlink() || layer.join("layer.json").exists() {
        return true;
    }
    let record: Value = match fs::read(layer.join("unsettled.json")) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(_) => return false,
    };
    let device = fs::metadata(store).unwrap().dev();
    let (major, minor) = (nix::sys::stat::major(device), nix::sys::stat::minor(device));
    let name = fs::read_link(format!("/sys/dev/block/{major}:{minor}")).unwrap();
    let name = name.file_name().unwrap().to_str().unwrap();
    let kinds = ["ext4", "xfs", "f2fs"].map(|kind| format!("/sys/fs/{kind}/{name}"));
    let instance = kinds.iter().find_map(|path| fs::metadata(path).ok());
    record["lifetime"]["instance"].as_u64() == instance.map(|found| found.ino())
}

/// Names of unpacked layers (image-spec config.md, "Layer ChainID").
fn chains(diff_ids: &[Digest]) -> Vec<String> {
    let mut chain: Option<Digest> = None;
    let mut all = Vec::new();
    for diff_id in diff_ids {
        let next = match chain {
            None => diff_id.clone(),
            Some(below) => Digest::of(format!("{below} {diff_id}").as_bytes()),
        };
        all.push(next.hex().to_owned());
        chain = Some(next);
    }
    all
}

/// Kills whatever this test has started, as the end of the machine would.
pub(crate) fn kill_everything() {
    let own = i32::try_from(std::process::id()).unwrap();
    let others = || {
        let all = process::all().into_iter();
        all.filter(move |(pid, state, _)| *pid > 1 && *pid != own && *state != 'Z')
    };
    process::until("the end of all processes", 20, || {
        for (pid, ..) in others() {
            let pid = nix::unistd::Pid::from_raw(pid);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
        }
        others().next().is_none().then_some(())
    });
}

impl Shelf<'_> {
    /// Removes all containers, whole or half made, and sees that nothing of them is left.
    #[track_caller]
    pub(crate) fn no_containers(&self) {
        for id in self.lines(&["ps", "--all", "--quiet", "--no-trunc"]) {
            self.ok(&["rm", "--force", &id]);
        }
        self.ok(&["prune", "--containers", "--force"]);
        for (place, length) in [("containers", 64), ("snapshots", 64)] {
            let left = entries(&self.path().join(place), length);
            assert_eq!(left, Vec::<String>::new(), "{place}");
        }
        let names = fs::read_dir(self.path().join("containers/names"));
        assert_eq!(names.map_or(0, Iterator::count), 0, "names of containers");
    }
}
