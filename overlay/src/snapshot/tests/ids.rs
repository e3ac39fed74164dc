//! Other users: mapped ids, and no privilege at all.

use super::*;

/// A process in a user namespace of its own, with a map from 0 to 100000.
struct Users(Child);

impl Users {
    fn new() -> Option<Self> {
        let mut child = Command::new("unshare")
            .args(["--user", "sh", "-c", "echo; cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = [0];
        let begun = child.stdout.take().unwrap().read_exact(&mut line);
        let child = Self(child);
        begun.ok()?;
        for map in ["uid_map", "gid_map"] {
            let path = format!("/proc/{}/{map}", child.0.id());
            fs::write(path, "0 100000 65536").unwrap();
        }
        Some(child)
    }

    /// mount_setattr(2) by another program, as it is nothing that this library does.
    fn map(&self, tree: BorrowedFd<'_>) -> Result<()> {
        let script = "import ctypes,os,struct,sys; \
            users=os.open(sys.argv[1],os.O_RDONLY); \
            attr=ctypes.create_string_buffer(struct.pack('QQQQ',0x100000,0,0,users),32); \
            libc=ctypes.CDLL(None,use_errno=True); \
            sys.exit(ctypes.get_errno() if libc.syscall(442,3,b'',0x1000,attr,32) else 0)";
        // Python wants no directory as its input.
        let status = Command::new("sh")
            .args(["-c", "exec 3<&0 </dev/null; exec python3 -c \"$@\"", "sh"])
            .args([script, &format!("/proc/{}/ns/user", self.0.id())])
            .stdin(tree.try_clone_to_owned().unwrap())
            .status()
            .context(|| "cannot run python3")?;
        match status.code() {
            Some(0) => Ok(()),
            code => Err(Errno::from_raw_os_error(code.unwrap_or(1)).into()),
        }
    }

    /// Runs a script as root of the namespace, in the mounted directory.
    fn run(&self, at: &OwnedFd, script: &str) -> String {
        let target = self.0.id().to_string();
        let output = Command::new("nsenter")
            .args(["--user", "-S0", "-G0", "-t", &target, "sh", "-ec"])
            .arg(format!("cd /proc/self/fd/0; exec </dev/null; {script}"))
            .stdin(at.try_clone().unwrap())
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

#[test]
fn ids_are_mapped_and_the_disk_has_those_of_archives() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let has_python = Command::new("python3").arg("-V").output();
    let (Some(users), true) = (Users::new(), has_python.is_ok_and(|it| it.status.success())) else {
        println!("skipped: needs python3 and unshare");
        return;
    };
    let mut chain = layers(&store, 1, 2, "");
    chain.push(layer(&store, 3, "", false, |diff| {
        fs::create_dir(diff.join("home")).unwrap();
        for (name, owner) in [("home/of-1000", 1000), ("of-0", 0), ("of-70000", 70000)] {
            fs::write(diff.join(name), "").unwrap();
            chown(diff.join(name), Some(owner), Some(owner)).unwrap();
        }
    }));
    let snapshot = create(&store, "mapped", &chain);
    let map = |tree: BorrowedFd<'_>| users.map(tree);
    let capabilities = rustix::thread::capabilities(None).unwrap();
    for way in [
        None,
        Some(private::Way::Modern),
        Some(private::Way::Classic),
    ] {
        let how = Mounting {
            idmap: Some(&map),
            ..Mounting::default()
        };
        let mounted = match way {
            None => snapshot.detached(&how).unwrap(),
            Some(way) => snapshot.apart(way, Some(&map)).unwrap(),
        };
        let owner = |name: &str| {
            let stat = statat(&mounted, name, AtFlags::SYMLINK_NOFOLLOW).unwrap();
            (stat.st_uid, stat.st_gid)
        };
        assert_eq!(owner("."), (100_000, 100_000));
        assert_eq!(owner("home/of-1000"), (101_000, 101_000));
        assert_eq!(owner("of-70000"), (65534, 65534), "outside of the map");
        let script = "stat -c %u . home/of-1000 of-70000; echo more >>top; mkdir -p made; \
            echo x >made/file; chown 5:6 made/file; chown 33 home/of-1000; \
            chmod u+s made/file; ln -sf file made/link; stat -c %u:%g made/file";
        let said = users.run(&mounted, script);
        assert_eq!(said, "0\n1000\n65534\n5:6\n", "{way:?}");
        let upper = store.path().join("snapshots/mapped/upper");
        let stored = |name: &str| {
            let stat = fs::symlink_metadata(upper.join(name)).unwrap();
            (stat.uid(), stat.gid())
        };
        assert_eq!(stored("."), (0, 0));
        assert_eq!(stored("made"), (0, 0), "the container's root is 0");
        assert_eq!(stored("made/link"), (0, 0));
        assert_eq!(stored("made/file"), (5, 6));
        assert_eq!(stored("top"), (0, 0));
        assert_eq!(stored("home/of-1000"), (33, 1000));
        // This thread is what it was.
        assert_eq!(nix::unistd::setfsuid(Uid::from_raw(0)), Uid::from_raw(0));
        assert_eq!(nix::unistd::setfsgid(Gid::from_raw(0)), Gid::from_raw(0));
        let now = rustix::thread::capabilities(None).unwrap();
        assert_eq!(now, capabilities);
        // The host's root is nobody whom the container knows.
        assert_eq!(write(&mounted, "by-the-host", ""), Err(Errno::OVERFLOW));
        drop(mounted);
        for name in ["made", "home", "top"] {
            let path = upper.join(name);
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
    let view = Stack::open(&store, &chain, Marks::Trusted).unwrap();
    let view = view.detached(Some(&map)).unwrap();
    assert_eq!(users.run(&view, "stat -c %u home/of-1000"), "1000\n");
}

#[test]
fn a_file_system_that_cannot_map_is_told_of() {
    let Some((_directory, store)) = store() else {
        return;
    };
    let snapshot = create(&store, "unmapped", &layers(&store, 1, 1, ""));
    let map = |_: BorrowedFd<'_>| Err(Errno::INVAL.into());
    let how = Mounting {
        idmap: Some(&map),
        ..Mounting::default()
    };
    let text = snapshot.detached(&how).unwrap_err().chain().to_string();
    assert!(
        text.contains("snapshot unmapped") && text.contains("map the ids"),
        "{text}"
    );
}

/// A part of the next test: root of a user namespace only.
#[test]
fn rootless_part() {
    let Ok(path) = std::env::var("RCRUN_ROOTLESS_STORE") else {
        return;
    };
    let store = Store::open(Path::new(&path)).unwrap();
    let chain = layers(&store, 1, 3, "-user");
    let lease = store.lease().unwrap();
    let all = Snapshots::new(&store).unwrap();
    let options = Options {
        marks: Marks::User,
        ..Options::default()
    };
    let snapshot = all.create(&lease, &id("mine"), &chain, options).unwrap();
    let mounted = snapshot.detached(&Mounting::default()).unwrap();
    assert_eq!(read(&mounted, "top"), Some("3".into()));
    write(&mounted, "top", "mine").unwrap();
    rustix::fs::unlinkat(&mounted, "only-1", AtFlags::empty()).unwrap();
    drop(mounted);
    let kinds: Vec<_> = snapshot
        .changes()
        .unwrap()
        .iter()
        .map(|change| change.kind)
        .collect();
    assert_eq!(kinds, [ChangeKind::Deleted, ChangeKind::Modified]);
    let map = |_: BorrowedFd<'_>| Ok(());
    let how = Mounting {
        idmap: Some(&map),
        ..Mounting::default()
    };
    let refused = snapshot.detached(&how).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unsupported);
    all.remove(&id("mine")).unwrap();
    println!("rootless: done");
}

#[test]
fn without_privilege() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: needs root to become an ordinary user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("store");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o777)).unwrap();
    // A copy, as the way to the original may be closed to others.
    let program = directory.path().join("tests");
    fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid=4711", "--regid=4711", "--clear-groups"])
        .args(["unshare", "--user", "--map-root-user", "--mount"])
        .arg(program)
        .args([
            "--exact",
            "snapshot::tests::ids::rootless_part",
            "--nocapture",
        ])
        .env("RCRUN_ROOTLESS_STORE", path)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("rootless: done"), "{output:?}");
}
