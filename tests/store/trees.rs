//! The same files come out of an image here as with other programs, and changes become a layer with
//! which other programs come to the same files.

use crate::harness::store::Image;
use crate::harness::{Env, Need, Shelf, Test, process, test, tree};
use rcrun_overlay::compress::Compression;
use rcrun_overlay::layer::{Overlay, diff};
use rcrun_overlay::snapshot::Snapshots;
use rcrun_overlay::store::Store;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat};
use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use tar::EntryType as Kind;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(umoci_and_buildah_see_the_same_files)
            .needs(Need::Program("umoci"))
            .timeout(120),
        test!(changes_come_back_as_a_layer)
            .needs(Need::Program("umoci"))
            .timeout(120),
        test!(changes_of_a_deep_image_come_back_as_a_layer)
            .needs(Need::Program("umoci"))
            .timeout(120),
    ]
}

/// One entry of a layer.
#[derive(Clone, Copy)]
struct Entry<'a> {
    path: &'a str,
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    content: &'a [u8],
    link: &'a str,
    device: (u32, u32),
    pax: &'a [(&'a str, &'a [u8])],
}

const FILE: Entry<'_> = Entry {
    path: "",
    kind: Kind::Regular,
    mode: 0o644,
    owner: (0, 0),
    content: b"",
    link: "",
    device: (0, 0),
    pax: &[],
};

const DIRECTORY: Entry<'_> = Entry {
    kind: Kind::Directory,
    mode: 0o755,
    ..FILE
};

fn pack(entries: &[Entry<'_>]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (index, entry) in entries.iter().enumerate() {
        builder
            .append_pax_extensions(entry.pax.iter().copied())
            .unwrap();
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(entry.kind);
        header.set_mode(entry.mode);
        header.set_uid(entry.owner.0);
        header.set_gid(entry.owner.1);
        // A link's entry says what its file's does, which is the one before: some take it from there.
        let index = index - usize::from(entry.kind == Kind::Link);
        header.set_mtime(1_600_000_000 + index as u64);
        header.set_size(entry.content.len() as u64);
        header.set_device_major(entry.device.0).unwrap();
        header.set_device_minor(entry.device.1).unwrap();
        match entry.link {
            "" => builder.append_data(&mut header, entry.path, entry.content),
            link => builder.append_link(&mut header, entry.path, link),
        }
        .unwrap();
    }
    builder.into_inner().unwrap()
}

fn named<'a>(path: &'a str, entry: Entry<'a>) -> Entry<'a> {
    Entry { path, ..entry }
}

/// An image with everything that layers have: whiteouts, opaque directories, links to files of lower
/// layers, devices, attributes, fractions of seconds.
pub(super) fn layers() -> Vec<Vec<u8>> {
    vec![lowest(), middle(), top()]
}

fn file<'a>(path: &'a str, content: &'a [u8]) -> Entry<'a> {
    Entry {
        path,
        content,
        ..FILE
    }
}

fn lowest() -> Vec<u8> {
    let long = "long/".to_owned() + &"x".repeat(150);
    pack(&[
        Entry {
            mode: 0o711,
            ..named("./", DIRECTORY)
        },
        named("d/", DIRECTORY),
        file("d/old", b"old"),
        file("d/kept", b"kept"),
        named("covered/", DIRECTORY),
        file("covered/old", b"old"),
        named("covered/sub/", DIRECTORY),
        file("covered/sub/old", b"old"),
        file("gone", b"gone"),
        named("away/", DIRECTORY),
        file("away/file", b"file"),
        file("first", b"linked"),
        Entry {
            kind: Kind::Link,
            link: "first",
            ..named("second", FILE)
        },
        file("was-file", b"file"),
        named("was-directory/", DIRECTORY),
        file("was-directory/file", b"file"),
        named("long/", DIRECTORY),
        file(&long, b"long"),
    ])
}

fn middle() -> Vec<u8> {
    pack(&[
        file(".wh.gone", b""),
        file(".wh.away", b""),
        Entry {
            mode: 0o1777,
            owner: (5, 6),
            ..named("covered/", DIRECTORY)
        },
        file("covered/.wh..wh..opq", b""),
        file("covered/new", b"new"),
        // Without this entry, buildah's storage gives the directory the time of its unpacking.
        named("d/", DIRECTORY),
        file("d/.wh.old", b""),
        named("was-file/", DIRECTORY),
        file("was-file/file", b"file"),
        Entry {
            content: b"file",
            mode: 0o600,
            ..named("was-directory", FILE)
        },
    ])
}

fn top() -> Vec<u8> {
    let capability =
        b"\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00";
    pack(&[
        Entry {
            content: b"suid",
            mode: 0o4755,
            owner: (70_000, 3),
            ..named("suid", FILE)
        },
        Entry {
            content: b"attributes",
            pax: &[
                ("SCHILY.xattr.user.key", b"value"),
                ("SCHILY.xattr.security.capability", capability),
                ("mtime", b"1500000000.123456789"),
            ],
            ..named("attributes", FILE)
        },
        Entry {
            kind: Kind::Fifo,
            ..named("fifo", FILE)
        },
        Entry {
            kind: Kind::Char,
            device: (1, 3),
            mode: 0o666,
            ..named("null", FILE)
        },
        Entry {
            kind: Kind::Block,
            device: (7, 300),
            mode: 0o660,
            ..named("block", FILE)
        },
        Entry {
            kind: Kind::Symlink,
            link: "../no/such",
            mode: 0o777,
            ..named("dangling", FILE)
        },
        file("\u{e4}\u{f6} name\n", b"name"),
    ])
}

/// Many layers that change what those below have: the nth of them.
fn nth(number: usize) -> Vec<u8> {
    let directory = format!("deep{}", number % 10);
    let name = |name: &str| format!("{directory}/{name}");
    let text = format!("of layer {number}");
    let entry = |path: String| (path, FILE);
    let mut entries = vec![
        (format!("{directory}/"), DIRECTORY),
        entry(name(&format!("f{}", number % 30))),
        entry(name(&format!("hard{number}"))),
        (
            name(&format!("hard{number}-again")),
            Entry {
                kind: Kind::Link,
                ..FILE
            },
        ),
    ];
    if number % 13 == 12 {
        entries.push(entry(name(".wh..wh..opq")));
    } else if number > 20 {
        entries.push(entry(name(&format!(".wh.hard{}", number - 10))));
    }
    let target = name(&format!("hard{number}"));
    let entries: Vec<Entry<'_>> = entries
        .iter()
        .map(|(path, entry)| Entry {
            path,
            mode: if number.is_multiple_of(3) {
                0o750
            } else {
                entry.mode
            },
            owner: (number as u64, 70_000 + number as u64),
            link: if entry.kind == Kind::Link {
                &target
            } else {
                ""
            },
            content: match entry.kind {
                Kind::Regular if !path.contains(".wh.") => text.as_bytes(),
                _ => b"",
            },
            ..*entry
        })
        .collect();
    pack(&entries)
}

fn image(env: &Env, more: usize) -> Shelf<'_> {
    let shelf = Shelf::new(env);
    let programs = crate::harness::people::layer(env, &[]);
    let more = (0..more).map(nth).collect();
    let image = Image::new(&[vec![programs], more, layers()].concat());
    shelf.publish("app:1", &image);
    shelf.ok(&["pull", "-q", &shelf.name("app:1")]);
    let to = format!("oci:{}:v1", env.path("layout").display());
    shelf.ok(&["push", "-q", &shelf.name("app:1"), &to]);
    shelf
}

/// What umoci makes of an image of the layout.
fn umoci(env: &Env, tag: &str) -> PathBuf {
    let bundle = env.path(&format!("umoci-{tag}"));
    let image = format!("{}:{tag}", env.path("layout").display());
    run(Command::new("umoci")
        .args(["unpack", "--image", &image])
        .arg(&bundle));
    bundle.join("rootfs")
}

#[track_caller]
fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
    String::from_utf8(output.stdout)
        .unwrap()
        .trim_end()
        .to_owned()
}

fn buildah(env: &Env, words: &[&str]) -> String {
    let root = format!("--root={}", env.path("theirs").display());
    let runroot = format!("--runroot={}", env.path("run").display());
    run(Command::new("buildah")
        .args([&root, &runroot, "--storage-driver=vfs"])
        .args(words)
        .env("HOME", env.path("home")))
}

/// Compares a directory with what umoci, and buildah if it is here, make of an image; umoci's root
/// directory only if the image's layers say all of it.
fn compare(env: &Env, place: &Path, tag: &str, root_too: bool) {
    let without_root = |mut all: tree::Files| {
        assert!(all.remove(Path::new("")).is_some());
        all
    };
    let (ours, theirs) = (tree::read(place), tree::read(&umoci(env, tag)));
    if root_too {
        tree::assert_same(&ours, &theirs);
    }
    let ours = without_root(ours);
    tree::assert_same(&ours, &without_root(theirs));
    if process::which(Path::new("buildah")).is_none() {
        println!("not compared with buildah: it is not installed");
        return;
    }
    let image = format!("oci:{}:{tag}", env.path("layout").display());
    let container = buildah(env, &["from", "-q", &image]);
    let root = buildah(env, &["mount", &container]);
    // Its storage makes the root directory, whatever the layers say of it.
    tree::assert_same(&ours, &without_root(tree::read(Path::new(&root))));
    buildah(env, &["umount", &container]);
    buildah(env, &["rm", &container]);
}

fn umoci_and_buildah_see_the_same_files(env: &Env) {
    let shelf = image(env, 0);
    let place = env.directory("place");
    let at = place.to_str().unwrap();
    shelf.ok(&["mount", &shelf.name("app:1"), at]);
    let seen = tree::read(&place);
    assert!(seen.contains_key(Path::new("covered/new")));
    for gone in ["gone", "away", "d/old", "covered/old", "covered/sub"] {
        assert!(!seen.contains_key(Path::new(gone)), "{gone}");
    }
    compare(env, &place, "v1", true);
    shelf.ok(&["unmount", at]);
}

/// Every kind of change.
fn change(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::write(path("d/kept"), "changed").unwrap();
    fs::write(path("d/new"), vec![7; 300_000]).unwrap();
    fs::set_permissions(path("d/new"), fs::Permissions::from_mode(0o6711)).unwrap();
    fs::remove_file(path("suid")).unwrap();
    fs::remove_dir_all(path("covered")).unwrap();
    fs::create_dir(path("covered")).unwrap();
    fs::write(path("covered/again"), "again").unwrap();
    fs::remove_dir_all(path("was-file")).unwrap();
    symlink("d", path("was-file")).unwrap();
    fs::remove_file(path("was-directory")).unwrap();
    fs::create_dir_all(path("was-directory/a/b")).unwrap();
    fs::rename(path("attributes"), path("moved")).unwrap();
    chown(path("long"), Some(1234), Some(99)).unwrap();
    fs::write(path("one"), "links").unwrap();
    fs::hard_link(path("one"), path("d/two")).unwrap();
    fs::hard_link(path("second"), path("third")).unwrap();
    let pipe = Mode::from(0o640);
    mknodat(CWD, path("pipe"), FileType::Fifo, pipe, 0).unwrap();
    let device = FileType::CharacterDevice;
    mknodat(CWD, path("zero"), device, pipe, makedev(1, 5)).unwrap();
    let set = |name: &str, key: &str, value: &[u8]| {
        rustix::fs::setxattr(path(name), key, value, XattrFlags::empty()).unwrap();
    };
    set("d/new", "user.mine", b"\x00binary\xff");
    set("d", "user.mine", b"of a directory");
    let sparse = fs::File::create(path("sparse")).unwrap();
    sparse.set_len(5 << 20).unwrap();
    fs::write(root.join(OsStr::from_bytes(b"\xff no text\n")), "x").unwrap();
    fs::write(path(&"n".repeat(240)), "long").unwrap();
    let old = fs::File::options().write(true).open(path("first")).unwrap();
    let moment = std::time::UNIX_EPOCH + std::time::Duration::new(1_234_567_890, 987_654_321);
    old.set_modified(moment).unwrap();
}

/// Adds a layer to the image of the layout; it has the tag `changed` then.
fn add_layer(layout: &Path, layer: &[u8], diff_id: &str) {
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let put = |bytes: &[u8]| {
        let digest = rcrun_image::Digest::of(bytes);
        let path = format!("blobs/{}", digest.to_string().replace(':', "/"));
        fs::write(layout.join(path), bytes).unwrap();
        (digest.to_string(), bytes.len())
    };
    let blob = |digest: &Value| {
        let path = digest.as_str().unwrap().replace(':', "/");
        layout.join("blobs").join(path)
    };
    let mut index = read(layout.join("index.json"));
    let mut entry = index["manifests"][0].clone();
    let mut manifest = read(blob(&entry["digest"]));
    let mut config = read(blob(&manifest["config"]["digest"]));
    let (digest, size) = put(layer);
    let kind = "application/vnd.oci.image.layer.v1.tar+gzip";
    let layers = manifest["layers"].as_array_mut().unwrap();
    layers.push(json!({"mediaType": kind, "digest": digest, "size": size}));
    let diff_ids = config["rootfs"]["diff_ids"].as_array_mut().unwrap();
    diff_ids.push(diff_id.into());
    let history = config["history"].as_array_mut().unwrap();
    history.push(json!({"created_by": "changes"}));
    let (digest, size) = put(config.to_string().as_bytes());
    manifest["config"]["digest"] = digest.into();
    manifest["config"]["size"] = size.into();
    let (digest, size) = put(manifest.to_string().as_bytes());
    entry["digest"] = digest.into();
    entry["size"] = size.into();
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "changed"});
    index["manifests"].as_array_mut().unwrap().push(entry);
    fs::write(layout.join("index.json"), index.to_string()).unwrap();
}

fn changes_come_back_as_a_layer(env: &Env) {
    come_back(env, 0);
}

/// 127 layers and the changes; few unless all is tested, since buildah copies each with all below it.
fn changes_of_a_deep_image_come_back_as_a_layer(env: &Env) {
    come_back(env, if crate::harness::full() { 123 } else { 30 });
}

/// Changes in what came by layers of their own.
fn change_deep(root: &Path) {
    let path = |name: &str| root.join(name);
    fs::remove_dir_all(path("deep3")).unwrap();
    fs::remove_dir_all(path("deep4")).unwrap();
    fs::create_dir(path("deep4")).unwrap();
    fs::write(path("deep4/new"), "new").unwrap();
    fs::write(path("deep5/f5"), "changed").unwrap();
    fs::set_permissions(path("deep6"), fs::Permissions::from_mode(0o1777)).unwrap();
    chown(path("deep7/f7"), Some(5), Some(6)).unwrap();
    fs::remove_file(path("deep8/f8")).unwrap();
    fs::create_dir(path("deep8/f8")).unwrap();
}

fn come_back(env: &Env, more: usize) {
    let shelf = image(env, more);
    let name = shelf.name("app:1");
    let place = env.directory("place");
    let at = place.to_str().unwrap();
    let parent = format!("--cgroup-parent={}", env.tag);
    shelf.ok(&[
        "run",
        "--pull=never",
        &parent,
        "--name",
        "changed",
        &name,
        "/bin/true",
    ]);
    shelf.ok(&["mount", "--writable", "changed", at]);
    change(&place);
    if more > 0 {
        change_deep(&place);
    }
    let store = Store::open(&shelf.path()).unwrap();
    let snapshots = Snapshots::new(&store).unwrap();
    let id = snapshots.list().unwrap().remove(0);
    let snapshot = snapshots.open(&id).unwrap().unwrap();
    let options = diff::Options {
        nanoseconds: true,
        ..diff::Options::new(Overlay::Trusted)
    };
    let (packed, layer) = snapshot
        .diff(options, Compression::Gzip, 1, Vec::new())
        .unwrap();
    drop((snapshot, snapshots, store));
    add_layer(&env.path("layout"), &layer, &packed.diff_id.to_string());
    // As with docker, a layer of changes says nothing of the root directory.
    compare(env, &place, "changed", false);
    // And by ourselves.
    let from = format!("oci:{}:changed", env.path("layout").display());
    shelf.ok(&["pull", "-q", &from]);
    let ours = env.directory("ours");
    let id = shelf.lines(&["images", "-q", "--no-trunc", "--filter", "dangling=true"]);
    shelf.ok(&["mount", &id[0], ours.to_str().unwrap()]);
    let (mut before, mut after) = (tree::read(&place), tree::read(&ours));
    before.remove(Path::new(""));
    after.remove(Path::new(""));
    tree::assert_same(&before, &after);
    shelf.ok(&["unmount", ours.to_str().unwrap(), at]);
    shelf.ok(&["rm", "changed"]);
}
