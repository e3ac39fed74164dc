//! User namespaces.

use crate::harness::people::People;
use crate::harness::users::Accounts;
use crate::harness::{Env, Test, test};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(ids_are_mapped_and_files_belong_to_root),
        test!(ranges_do_not_overlap),
    ]
}

fn ids_are_mapped_and_files_belong_to_root(env: &Env) {
    let people = People::new(env);
    let flags = ["--userns=0:200000:65536"];
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map; stat -c '%u %g' / /bin/busybox /etc/passwd /etc/hosts; \
                  touch /new; stat -c '%u' /new; id -u";
    let text = people.sh(&flags, script);
    assert_eq!(text, "0 200000 65536\n0 0\n0 0\n0 0\n0 0\n0\n0\n");
    let text = people.sh(
        &["--userns=0:200000:65536", "-u", "user"],
        "id -u; mkdir /tmp/x && stat -c %u /tmp/x",
    );
    assert_eq!(text, "1000\n1000\n");
    // What is on the disk has the image's ids, whatever the container's are.
    people
        .run(
            &["--name=one", "--userns=0:200000:65536"],
            &["touch", "/made"],
        )
        .ok();
    let directory = people.containers().pop().unwrap();
    let id = directory.file_name().unwrap();
    let made = people
        .shelf
        .path()
        .join("snapshots")
        .join(id)
        .join("upper/made");
    assert_eq!(
        std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(made).unwrap()),
        0
    );
    people.remove("one");
    let output = people.run(&["--rm", "--userns=1:200000:10"], &["true"]);
    assert!(
        output.code == 125 && output.stderr.contains("maps no root"),
        "{}",
        output.stderr
    );
    people.assert_empty();
}

fn ranges_do_not_overlap(env: &Env) {
    let people = People::new(env);
    {
        let _nobody = Accounts::new(env, &[], "alice:200000:65536\n", "alice:200000:65536\n");
        let output = people.run(&["--rm", "--userns=auto"], &["true"]);
        output.exits(125).says("/etc/subuid");
    }
    let ranges = "alice:100:5\ncontainers:200000:65536\nroot:400000:65536\n";
    let _accounts = Accounts::new(env, &[], ranges, ranges);
    let script = "awk '{print $1, $2, $3}' /proc/self/uid_map /proc/self/gid_map; stat -c '%u %g' / /bin/busybox; \
                  touch /new && chown 1000:1000 /new && stat -c '%u %g' /new";
    let text = people.sh(&["--userns=auto"], script);
    assert_eq!(
        text,
        "0 200000 65536\n0 200000 65536\n0 0\n0 0\n1000 1000\n"
    );
    let start = |name: &str, size: u32| {
        let flags = [
            &format!("--name={name}"),
            "-d",
            &format!("--userns=auto:size={size}"),
        ];
        let id = people.run(&flags, &["sleep", "100"]).ok().stdout;
        let directory = people.shelf.path().join("containers").join(id.trim_end());
        people.record(&directory)["map"][0]["outer"]
            .as_u64()
            .unwrap()
    };
    // The first gap that is large enough, of the first user who has one.
    assert_eq!(start("one", 60_000), 200_000);
    assert_eq!(start("two", 5000), 260_000);
    assert_eq!(start("three", 5000), 400_000);
    let output = people.run(&["--rm", "--userns=auto"], &["true"]);
    output.exits(125).says("cannot find 65536 free user ids");
    // What one container had is the next one's when it is gone.
    people.remove("one");
    assert_eq!(start("four", 60_000), 200_000);
    for name in ["two", "three", "four"] {
        people.remove(name);
    }
    let output = people.run(&["--rm", "--userns=keep-id"], &["true"]);
    output.exits(125).says("for ordinary users");
    people.assert_empty();
}
