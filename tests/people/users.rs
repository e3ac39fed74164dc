//! User namespaces.

use crate::harness::people::People;
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
    let ranges = std::fs::read_to_string("/etc/subuid").unwrap_or_default();
    let has = |user: &str| {
        ranges
            .lines()
            .any(|line| line.split(':').next() == Some(user))
    };
    if !["rcrun", "containers", "root"].into_iter().any(has) {
        let output = people.run(&["--rm", "--userns=auto"], &["true"]);
        assert!(
            output.code == 125 && output.stderr.contains("/etc/subuid"),
            "{}",
            output.stderr
        );
        env.skip("/etc/subuid has no range for containers");
    }
    let flags = ["-d", "--userns=auto:size=1000"];
    let mut maps = Vec::new();
    for name in ["one", "two"] {
        let named = format!("--name={name}");
        let id = people
            .run(&[&flags[..], &[&named]].concat(), &["sleep", "100"])
            .ok()
            .stdout;
        let directory = people.shelf.path().join("containers").join(id.trim_end());
        maps.push(
            people.record(&directory)["map"][0]["outer"]
                .as_u64()
                .unwrap(),
        );
    }
    assert!(maps[0].abs_diff(maps[1]) >= 1000, "{maps:?}");
    people.remove("one");
    people.remove("two");
}
