//! Containers that go on from archives which somebody made up, or that are not meant for them: the archive has
//! no say. Needs a criu that works (see `harness::criu`).

use super::checkpoint::{
    COUNTER, beyond, count, counter, exec, from, leftovers, members, node, request, save,
    start_request, started, take_away,
};
use crate::harness::pods::{Pods, creation, security};
use crate::harness::store::archive;
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    let all = vec![
        test!(volumes_come_from_the_request),
        test!(what_an_archive_says_of_its_configuration_is_nothing),
        test!(more_rights_than_the_request_gives_are_refused),
        test!(system_calls_are_filtered_as_the_request_says),
        test!(a_log_that_is_a_link_is_not_written),
        test!(damaged_archives),
        test!(what_cannot_be_restored),
        test!(stopped_before_it_is_restored),
    ];
    all.into_iter().map(|test| test.timeout(180)).collect()
}

fn bind(pods: &Pods<'_>, image: &str, mounts: &[(&Path, &str, bool)]) -> cri::ContainerConfig {
    let mut config = from(pods, image);
    let one = |(host, container, readonly): &(&Path, &str, bool)| cri::Mount {
        host_path: host.display().to_string(),
        container_path: (*container).to_owned(),
        readonly: *readonly,
        ..Default::default()
    };
    config.mounts = mounts.iter().map(one).collect();
    config
}

/// Starts a container that is not to be started; why it was not. Nothing of it runs.
#[track_caller]
fn start_fails(pods: &Pods<'_>, name: &str, config: &cri::ContainerConfig) -> String {
    let pod = pods.pod(name);
    let id = pods.run(&pod);
    let container = pods.create(&id, config, &pod);
    let call = pods.node.runtime();
    let mut call = call;
    let answer = pods
        .node
        .wait(call.start_container(start_request(&container)));
    let why = answer.expect_err("it was started").message().to_owned();
    let status = pods.status(&container);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!((&*status.reason, status.exit_code), ("StartError", 128));
    assert!(!pods.log(&status).contains("started anew"));
    assert_eq!(leftovers(pods, &container), [""; 0].map(PathBuf::from));
    pods.stop(&id);
    pods.remove(&id);
    why
}

fn filtered(mut config: cri::ContainerConfig) -> cri::ContainerConfig {
    security(&mut config).seccomp = Some(cri::SecurityProfile {
        profile_type: cri::security_profile::ProfileType::RuntimeDefault.into(),
        ..Default::default()
    });
    config
}

/// The same archive, with other content for some files.
fn rewritten(from: &Path, to: &Path, change: &dyn Fn(&str, Vec<u8>) -> Vec<u8>) {
    let all: Vec<_> = members(from)
        .into_iter()
        .map(|(name, content)| {
            let content = change(&name, content);
            (name, content)
        })
        .collect();
    let all: Vec<_> = all
        .iter()
        .map(|(name, content)| (&**name, &**content))
        .collect();
    fs::write(to, archive(&all)).unwrap();
}

fn volumes_come_from_the_request(env: &Env) {
    let pods = node(env);
    let (old, new) = (env.directory("old"), env.directory("new"));
    fs::write(old.join("name"), "old").unwrap();
    fs::write(new.join("name"), "new").unwrap();
    let image = pods.node.shelf.name("app");
    let mut config = bind(&pods, &image, &[(&old, "/data", false)]);
    config.command = ["sh", "-c", COUNTER].map(str::to_owned).into();
    let (first, one) = started(&pods, "first", &config);
    beyond(&pods, &one, 3);
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    let stood = count(&pods, &one).unwrap();
    pods.stop(&first);
    pods.remove(&first);
    let path = path.display().to_string();
    // A mount of the host that the request does not have is not made.
    let why = start_fails(&pods, "none", &from(&pods, &path));
    assert!(why.contains("/data"), "{why}");
    // Nor is one left out, or made in another place.
    let more = bind(
        &pods,
        &path,
        &[(&new, "/data", false), (&new, "/more", false)],
    );
    let why = start_fails(&pods, "more", &more);
    assert!(why.contains("/more"), "{why}");
    // What is to be read only would be written to: that is how it was.
    let why = start_fails(&pods, "ro", &bind(&pods, &path, &[(&new, "/data", true)]));
    assert!(why.contains("/data"), "{why}");
    let config = bind(&pods, &path, &[(&new, "/data", false)]);
    let (second, two) = started(&pods, "second", &config);
    beyond(&pods, &two, stood);
    assert_eq!(exec(&pods, &two, "cat /data/name"), "0: new");
    take_away(&pods, &[&second]);
}

/// CVE-2024-8676, CVE-2026-53492, CVE-2026-50195, CVE-2026-53489: mounts, devices, hooks, annotations, labels and
/// paths of an archive mean nothing.
fn what_an_archive_says_of_its_configuration_is_nothing(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let (path, crafted) = (env.path("one.tar"), env.path("crafted.tar"));
    save(&pods, &one, &path);
    let stood = count(&pods, &one).unwrap();
    let secret = env.directory("secret");
    let (pwned, log) = (env.path("pwned"), env.path("log-of-the-archive"));
    let hook =
        json!([{"path": "/bin/sh", "args": ["sh", "-c", format!("echo > {}", pwned.display())]}]);
    rewritten(&path, &crafted, &|name, content| {
        let mut json: Value = match name {
            "spec.dump" | "status.dump" | "bind.mounts" => {
                serde_json::from_slice(&content).unwrap()
            }
            _ => return content,
        };
        match name {
            "spec.dump" => {
                json["mounts"]
                    .as_array_mut()
                    .unwrap()
                    .push(json!({"destination": "/host",
                    "source": secret, "type": "bind", "options": ["rbind", "rw"]}));
                json["hooks"] = json!({"prestart": hook, "createRuntime": hook, "poststart": hook,
                    "createContainer": hook, "startContainer": hook});
                json["annotations"]["cdi.k8s.io/x"] = json!("vendor.com/device=all");
                json["annotations"]["org.criu.config"] = json!(pwned);
                json["linux"]["devices"] = json!([{"path": "/dev/disk", "type": "b", "major": 8,
                    "minor": 0, "fileMode": 438, "uid": 0, "gid": 0}]);
                json["process"]["capabilities"]["bounding"] = json!(["CAP_SYS_ADMIN"]);
                json["root"]["path"] = json!("/");
            }
            "status.dump" => {
                json["log_path"] = json!(log);
                json["annotations"]["cdi.k8s.io/x"] = json!("vendor.com/device=all");
                json["labels"] = json!({"of": "the archive"});
                json["image"]["image"] = json!("evil");
            }
            _ => json = json!([{"source": secret, "destination": "/host"}]),
        }
        json.to_string().into_bytes()
    });
    let (second, two) = started(
        &pods,
        "second",
        &from(&pods, &crafted.display().to_string()),
    );
    beyond(&pods, &two, stood);
    let found = exec(
        &pods,
        &two,
        "cat /proc/self/mountinfo; echo /host*; echo /dev/d*",
    );
    assert!(!found.contains(&*secret.to_string_lossy()), "{found}");
    assert!(
        found.contains("/host*") && found.contains("/dev/d*"),
        "{found}"
    );
    let status = pods.status(&two);
    assert_eq!(status.labels["container"], "count");
    assert!(status.annotations.is_empty(), "{status:?}");
    assert!(
        status
            .log_path
            .starts_with(&*pods.logs("second").to_string_lossy())
    );
    assert!(!pwned.exists() && !log.exists());
    take_away(&pods, &[&second, &first]);
}

fn more_rights_than_the_request_gives_are_refused(env: &Env) {
    let pods = node(env);
    let mut config = pods.container("count", COUNTER);
    security(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: vec!["SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    let (first, one) = started(&pods, "first", &config);
    beyond(&pods, &one, 3);
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    pods.stop(&first);
    pods.remove(&first);
    let path = path.display().to_string();
    let plain = from(&pods, &path);
    let why = start_fails(&pods, "plain", &plain);
    assert!(why.contains("capabilities 0x200000 beyond"), "{why}");
    let mut config = from(&pods, &path);
    security(&mut config).capabilities = Some(cri::Capability {
        add_capabilities: vec!["SYS_ADMIN".to_owned()],
        ..Default::default()
    });
    let same = config.clone();
    security(&mut config).run_as_user = Some(cri::Int64Value { value: 1000 });
    security(&mut config)
        .capabilities
        .as_mut()
        .unwrap()
        .drop_capabilities = vec!["SETUID".to_owned()];
    let why = start_fails(&pods, "user", &config);
    assert!(why.contains("process"), "{why}");
    let mut config = same.clone();
    security(&mut config).no_new_privs = true;
    let why = start_fails(&pods, "nnp", &config);
    assert!(why.contains("new privileges"), "{why}");
    let mut config = same.clone();
    security(&mut config).readonly_rootfs = true;
    let why = start_fails(&pods, "readonly", &config);
    assert!(why.contains("root file system can be written to"), "{why}");
    let mut config = same.clone();
    security(&mut config).masked_paths = vec!["/proc/version".to_owned()];
    let why = start_fails(&pods, "masked", &config);
    assert!(why.contains("/proc/version is not hidden"), "{why}");
    let (second, _) = started(&pods, "second", &same);
    take_away(&pods, &[&second]);
}

fn system_calls_are_filtered_as_the_request_says(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "free");
    let (free, bound) = (env.path("free.tar"), env.path("bound.tar"));
    save(&pods, &one, &free);
    let config = filtered(pods.container("count", COUNTER));
    let (second, two) = started(&pods, "bound", &config);
    beyond(&pods, &two, 3);
    save(&pods, &two, &bound);
    let stood = count(&pods, &two).unwrap();
    let (free, bound) = (free.display().to_string(), bound.display().to_string());
    let why = start_fails(&pods, "escapes", &filtered(from(&pods, &free)));
    assert!(why.contains("not restricted in its system calls"), "{why}");
    // Another filter than the request's.
    let crafted = env.path("crafted.tar");
    rewritten(Path::new(&bound), &crafted, &|name, mut content| {
        if name == "checkpoint/seccomp.img" {
            *content.last_mut().unwrap() ^= 1;
            let middle = content.len() / 2;
            content[middle] ^= 1;
        }
        content
    });
    let crafted = crafted.display().to_string();
    let why = start_fails(&pods, "crafted", &filtered(from(&pods, &crafted)));
    assert!(why.contains("checkpoint"), "{why}");
    let (third, three) = started(&pods, "third", &filtered(from(&pods, &bound)));
    beyond(&pods, &three, stood);
    assert_eq!(
        exec(&pods, &three, "grep Seccomp: /proc/1/status"),
        "0: Seccomp:\t2"
    );
    take_away(&pods, &[&first, &second, &third]);
}

fn a_log_that_is_a_link_is_not_written(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    let victim = env.path("victim");
    fs::write(&victim, "precious").unwrap();
    let logs = pods.logs("second");
    fs::create_dir_all(&logs).unwrap();
    std::os::unix::fs::symlink(&victim, logs.join("count.log")).unwrap();
    let why = start_fails(&pods, "second", &from(&pods, &path.display().to_string()));
    assert!(why.contains("count.log"), "{why}");
    assert_eq!(fs::read(&victim).unwrap(), b"precious");
    take_away(&pods, &[&first]);
}

fn damaged_archives(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let (path, crafted) = (env.path("one.tar"), env.path("crafted.tar"));
    save(&pods, &one, &path);
    let whole = fs::read(&path).unwrap();
    let pod = pods.pod("second");
    let second = pods.run(&pod);
    let node = &pods.node;
    let refuse = |what: &str| {
        let config = from(&pods, &crafted.display().to_string());
        let request = creation(&second, &config, &pod);
        let answer = node.wait(node.runtime().create_container(request));
        let status = answer.expect_err(what);
        assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
    };
    for end in [0, 700, whole.len() / 2, whole.len() - 40_000] {
        fs::write(&crafted, &whole[..end]).unwrap();
        refuse(&format!("cut after {end}"));
    }
    // Changes of the image that lead out of it.
    let mut builder = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(5);
    header.set_mode(0o644);
    let name = b"../../../../../../../../pwned";
    header.as_mut_bytes()[..name.len()].copy_from_slice(name);
    header.set_cksum();
    builder.append(&header, &b"pwned"[..]).unwrap();
    let escape = builder.into_inner().unwrap();
    for (what, file, content) in [
        ("out of the image", "rootfs-diff.tar", &*escape),
        ("no archive", "rootfs-diff.tar", b"no archive at all"),
        ("no list", "deleted.files", b"{}"),
        ("up", "deleted.files", b"[\"/../../etc/passwd\"]"),
        ("no name", "config.dump", b"{}"),
    ] {
        rewritten(&path, &crafted, &|name, old| match name == file {
            true => content.to_vec(),
            false => old,
        });
        refuse(what);
    }
    assert!(!Path::new("/pwned").exists());
    // Nothing is left of any of them.
    let containers = pods.node.shelf.path().join("cri/containers");
    let left: Vec<_> = fs::read_dir(containers)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, [one.as_str()]);
    // Images that criu cannot read.
    rewritten(&path, &crafted, &|name, content| match name {
        "checkpoint/pstree.img" => content[..content.len() / 2].to_vec(),
        _ => content,
    });
    start_fails(&pods, "third", &from(&pods, &crafted.display().to_string()));
    take_away(&pods, &[&second, &first]);
}

fn what_cannot_be_restored(env: &Env) {
    let pods = Pods::with(
        env,
        &json!({ "criu": "/nonexistent/criu", "restore": true }),
    );
    let pod = pods.pod("first");
    let id = pods.run(&pod);
    let node = &pods.node;
    let refused = |image: &str, code| {
        let config = from(&pods, image);
        let request = creation(&id, &config, &pod);
        node.refused(node.runtime().create_container(request), code)
    };
    let archive = env.path("a.tar").display().to_string();
    let why = refused(&archive, Code::FailedPrecondition);
    assert!(
        why.contains("/nonexistent/criu") && why.contains("install it"),
        "{why}"
    );
    let one = pods.create(&id, &pods.container("one", "sleep 1000"), &pod);
    pods.start(&one);
    let why = node.refused(
        node.runtime().checkpoint_container(request(&one, &archive)),
        Code::FailedPrecondition,
    );
    assert!(why.contains("/nonexistent/criu"), "{why}");
    node.stop();
    // Not unless asked for.
    node.configure(json!({"network": "bridge", "cgroup_driver": "cgroupfs", "criu": "/bin/true"}));
    node.start();
    let why = refused(&archive, Code::FailedPrecondition);
    assert!(why.contains("cri.restore"), "{why}");
    node.stop();
    node.configure(
        json!({"network": "bridge", "cgroup_driver": "cgroupfs", "criu": "/bin/true",
        "restore": true}),
    );
    node.start();
    refused(&archive, Code::NotFound);
    refused("/etc", Code::InvalidArgument);
    refused("/etc/passwd", Code::InvalidArgument);
    let config = json!({"rootfsImageRef": format!("no.where/a@sha256:{}", "0a".repeat(32))});
    let config = config.to_string();
    let files = [
        ("config.dump", config.as_bytes()),
        ("checkpoint/a.img", b""),
    ];
    fs::write(&archive, self::archive(&files)).unwrap();
    let why = refused(&archive, Code::NotFound);
    assert!(
        why.contains("no.where/a@sha256") && why.contains("pull it first"),
        "{why}"
    );
    take_away(&pods, &[&id]);
}

fn stopped_before_it_is_restored(env: &Env) {
    let pods = node(env);
    let (first, one) = counter(&pods, "first");
    let path = env.path("one.tar");
    save(&pods, &one, &path);
    let stood = count(&pods, &one).unwrap();
    let pod = pods.pod("second");
    let second = pods.run(&pod);
    let config = from(&pods, &path.display().to_string());
    let two = pods.create(&second, &config, &pod);
    pods.stop_container(&two, 10);
    let status = pods.status(&two);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert!(
        status.message.contains("before it was restored"),
        "{status:?}"
    );
    pods.remove_container(&two);
    // Another server starts what this one made.
    let mut config = config;
    config.metadata.as_mut().unwrap().attempt = 1;
    let two = pods.create(&second, &config, &pod);
    config.metadata.as_mut().unwrap().attempt = 2;
    let three = pods.create(&second, &config, &pod);
    pods.node.kill();
    pods.node.start();
    assert_eq!(
        pods.status(&two).state(),
        cri::ContainerState::ContainerCreated
    );
    pods.remove_container(&three);
    pods.start(&two);
    beyond(&pods, &two, stood);
    take_away(&pods, &[&first, &second]);
}
