//! Ordinary users, as one test sees them: accounts and subordinate ids that the machine does not have, in
//! files that are bound over the machine's own in the test's mount namespace.

use super::people::layer;
use super::runtime::{Output, Running};
use super::store::Image;
use super::{Env, Need, Shelf, Test};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Where ids of the users' own begin.
pub(crate) const SUBORDINATE: u32 = 2_000_000;
/// How many each has.
pub(crate) const COUNT: u32 = 65_536;

/// Files below /etc that say other things as long as this lives.
#[derive(Debug)]
pub(crate) struct Accounts(Vec<PathBuf>);

impl Accounts {
    /// The machine's accounts and these; what `subuid` and `subgid` say is all they say.
    pub(crate) fn new(env: &Env, users: &[(&str, u32)], subuid: &str, subgid: &str) -> Self {
        let mut passwd = fs::read_to_string("/etc/passwd").unwrap();
        let mut group = fs::read_to_string("/etc/group").unwrap();
        for (name, id) in users {
            passwd += &format!("{name}:x:{id}:{id}::/nonexistent:/bin/sh\n");
            group += &format!("{name}:x:{id}:\n");
        }
        let mut accounts = Self(Vec::new());
        for (name, text) in [
            ("passwd", passwd.as_str()),
            ("group", &group),
            ("subuid", subuid),
            ("subgid", subgid),
        ] {
            let place = Path::new("/etc").join(name);
            if !place.exists() {
                drop(accounts);
                env.skip(format!("{} is missing", place.display()));
            }
            let file = env.path(&format!("etc-{name}"));
            fs::write(&file, text).unwrap();
            fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
            accounts.bind(&file, &place);
        }
        accounts
    }

    /// Binds another file over one of the machine.
    pub(crate) fn bind(&mut self, file: &Path, place: &Path) {
        let none: Option<&str> = None;
        mount(Some(file), place, none, MsFlags::MS_BIND, none).unwrap();
        self.adopt(place);
    }

    /// Unmounts this as well.
    pub(crate) fn adopt(&mut self, place: &Path) {
        self.0.push(place.to_owned());
    }
}

impl Drop for Accounts {
    fn drop(&mut self) {
        for place in self.0.drain(..).rev() {
            let _ = umount2(&place, MntFlags::MNT_DETACH);
        }
    }
}

/// Set to 1: tests that can be are an ordinary user's.
pub(crate) const USER: &str = "RCRUN_TEST_USER";

/// Whether this test's verbs are an ordinary user's.
pub(crate) fn wanted() -> bool {
    std::env::var(USER).is_ok_and(|value| value == "1")
}

/// A program as a user, and nothing of this process's environment that says who that is.
pub(crate) fn command(id: u32, program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    let id = id.to_string();
    command
        .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
        .arg(program)
        .env_remove(super::stage::STAGE)
        .env_remove("LOGNAME");
    command
}

/// The id that a user's file has in the user's containers.
pub(crate) fn inside(id: u32) -> u32 {
    match id {
        ALICE => 0,
        id if (SUBORDINATE..SUBORDINATE + COUNT).contains(&id) => id - SUBORDINATE + 1,
        id => id,
    }
}

/// What an ordinary user has.
pub(crate) struct User<'a> {
    env: &'a Env,
    pub(crate) id: u32,
    pub(crate) home: PathBuf,
    pub(crate) run: PathBuf,
    program: PathBuf,
}

impl<'a> User<'a> {
    /// A home and a runtime directory of its own.
    pub(crate) fn new(env: &'a Env, name: &str, id: u32) -> Self {
        let program = env.path("rcrun");
        if !program.exists() {
            // The build directory may be closed to others.
            fs::copy(env.rt.path(), &program).unwrap();
        }
        let (home, run) = (
            env.directory(&format!("home-{name}")),
            env.directory(&format!("run-{name}")),
        );
        for path in [&home, &run] {
            chown(path, Some(id), Some(id)).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o700)).unwrap();
        }
        Self {
            env,
            id,
            home,
            run,
            program,
        }
    }

    /// Any program, as this user.
    pub(crate) fn any(&self, words: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let id = self.id.to_string();
        command
            .args(["--reuid", &id, "--regid", &id, "--clear-groups", "--"])
            .args(words)
            .current_dir(&self.home)
            .env_remove("RCRUN_TEST_STAGE")
            .env_remove("LOGNAME")
            // Whatever it says: who one is the kernel knows.
            .env("USER", "root")
            .env("HOME", &self.home)
            .env("XDG_RUNTIME_DIR", &self.run)
            .stdin(Stdio::null());
        command
    }

    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let words = [&[self.program()], args].concat();
        self.any(&words)
    }

    /// The path of rcrun that everybody may execute.
    pub(crate) fn program(&self) -> &str {
        self.program.to_str().unwrap()
    }

    #[track_caller]
    pub(crate) fn finish(&self, command: Command) -> Output {
        self.env.rt.finish(self.env.rt.spawn(command))
    }

    #[track_caller]
    pub(crate) fn spawn(&self, args: &[&str]) -> Running {
        self.env.rt.spawn(self.command(args))
    }

    /// Calls a verb and waits for it.
    #[track_caller]
    pub(crate) fn call(&self, args: &[&str]) -> Output {
        self.finish(self.command(args))
    }

    /// Calls a verb, which succeeds; what it printed.
    #[track_caller]
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        self.call(args).ok().stdout
    }

    /// The store.
    pub(crate) fn store(&self) -> PathBuf {
        self.home.join(".local/share/rcrun")
    }

    /// Pulls what the shelf's registry has.
    #[track_caller]
    pub(crate) fn pull(&self, shelf: &Shelf<'_>, name: &str) -> String {
        let image = shelf.name(name);
        self.ok(&["pull", "--quiet", &image]);
        image
    }

    /// Names of what is in a directory of the store.
    pub(crate) fn list(&self, directory: &str) -> Vec<String> {
        let entries = fs::read_dir(self.store().join(directory));
        let entries = entries.into_iter().flatten().flatten();
        let mut names: Vec<String> = entries
            .map(|entry| entry.file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Nothing is left that took the right of another id to make, and nothing of containers.
    #[track_caller]
    pub(crate) fn assert_empty(&self) {
        assert_eq!(self.list("containers"), ["names"]);
        for place in ["containers/names", "snapshots", "trash", "leases"] {
            assert_eq!(self.list(place), Vec::<String>::new(), "{place}");
        }
        assert_eq!(self.list("layers"), ["empty", "incoming"]);
        let left: Vec<String> = fs::read_dir(self.run.join("rcrun"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .filter(|name| !name.starts_with(".user-namespace-") && name != ".monitors")
            .collect();
        assert_eq!(left, Vec::<String>::new(), "runtime state");
    }
}

/// Nobody on the machines where this runs.
pub(crate) const ALICE: u32 = 54_321;
/// Nobody either.
pub(crate) const BOB: u32 = 54_322;

/// A test for users with subordinate ids.
pub(crate) fn by_programs(test: Test) -> Test {
    test.needs(Need::Program("newuidmap"))
        .needs(Need::Program("newgidmap"))
}

pub(crate) fn subordinate(name: &str, index: u32) -> String {
    format!("{name}:{}:{COUNT}\n", SUBORDINATE + index * COUNT)
}

/// Alice and Bob, who have subordinate ids.
pub(crate) fn both(env: &Env) -> Accounts {
    let ranges = subordinate("alice", 0) + &subordinate("bob", 1);
    Accounts::new(env, &[("alice", ALICE), ("bob", BOB)], &ranges, &ranges)
}

/// A layer of files with owners; `path/` is a directory.
pub(crate) fn owned(entries: &[(&str, u64, u64, &[u8])]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (path, uid, gid, content) in entries {
        let directory = path.ends_with('/');
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(match directory {
            true => tar::EntryType::Directory,
            false => tar::EntryType::Regular,
        });
        header.set_mode(if directory { 0o755 } else { 0o644 });
        header.set_uid(*uid);
        header.set_gid(*gid);
        header.set_mtime(1_000_000_000);
        header.set_size(content.len() as u64);
        builder.append_data(&mut header, path, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

/// Three layers: a system, files of others, and deletions of some of them.
pub(crate) fn publish(shelf: &Shelf<'_>) {
    let files = owned(&[
        ("srv/", 33, 34, b""),
        ("srv/data", 33, 34, b"data"),
        ("gone/", 0, 0, b""),
        ("gone/file", 1000, 1000, b"x"),
        ("gone/other", 0, 0, b"x"),
        ("opaque/", 0, 0, b""),
        ("opaque/old", 0, 0, b"x"),
    ]);
    let marks = owned(&[
        ("gone/.wh.file", 0, 0, b""),
        ("opaque/.wh..wh..opq", 0, 0, b""),
        ("opaque/new", 7, 8, b"new"),
    ]);
    let mut image = Image::new(&[layer(shelf.env, &[]), files, marks]);
    image.config = json!({"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]});
    shelf.publish("app", &image);
}

/// What [`publish`] means, with these owners.
pub(crate) const SHOWN: &str =
    "ls /gone /opaque; stat -c '%u %g' /srv/data /opaque/new; cat /srv/data";

pub(crate) fn record_of(user: &User<'_>, id: &str) -> Value {
    let path = user
        .store()
        .join("containers")
        .join(id)
        .join("container.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

pub(crate) fn namespace(pid: i32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/ns/user")).unwrap()
}

/// The first process of a container.
pub(crate) fn pid(user: &User<'_>, name: &str) -> i32 {
    let text = user.ok(&["inspect", "--format", "{State.Pid}", name]);
    text.trim().parse().unwrap()
}
