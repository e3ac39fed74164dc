//! AppArmor profiles of containers, where the kernel has AppArmor.

use crate::harness::pods::{Pods, pod_security, security};
use crate::harness::{Env, Need, Test, test};
use rcrun_cri::proto::v1 as cri;
use rcrun_runtime::template::apparmor;
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(who_asks_for_nothing_is_confined),
        test!(what_the_default_profile_denies),
        test!(a_profile_that_is_not_loaded_is_refused),
    ];
    let needs = |test: Test| {
        test.needs(Need::AppArmor)
            .needs(Need::Program("apparmor_parser"))
    };
    tests.into_iter().map(needs).collect()
}

const CURRENT: &str = "cat /proc/self/attr/apparmor/current";

type Change = fn(&mut cri::LinuxContainerSecurityContext);

fn profile(kind: cri::security_profile::ProfileType, name: &str) -> Option<cri::SecurityProfile> {
    Some(cri::SecurityProfile {
        profile_type: kind.into(),
        localhost_ref: name.to_owned(),
    })
}

fn who_asks_for_nothing_is_confined(env: &Env) {
    use cri::security_profile::ProfileType::{RuntimeDefault, Unconfined};
    let pods = Pods::new(env);
    let mut of_pod = pods.without_network("one");
    pod_security(&mut of_pod).privileged = true;
    let pod = pods.run(&of_pod);
    let confined = format!("{} (enforce)\n", apparmor::NAME);
    let cases: [(&str, Change, bool); 5] = [
        ("nothing", |_| (), true),
        (
            "default",
            |asked| asked.apparmor = profile(RuntimeDefault, ""),
            true,
        ),
        (
            "none",
            |asked| asked.apparmor = profile(Unconfined, ""),
            false,
        ),
        ("privileged", |asked| asked.privileged = true, false),
        (
            "without-new-privileges",
            |asked| asked.no_new_privs = true,
            true,
        ),
    ];
    for (name, change, is_confined) in cases {
        let mut config = pods.container(name, &format!("{CURRENT}; sleep 1000"));
        change(security(&mut config));
        let id = pods.create(&pod, &config, &of_pod);
        pods.start(&id);
        let expected = match is_confined {
            true => confined.as_str(),
            false => "unconfined\n",
        };
        let request = cri::ExecSyncRequest {
            container_id: id.clone(),
            cmd: CURRENT.split(' ').map(str::to_owned).collect(),
            timeout: 10,
        };
        let answer = pods.node.ok(pods.node.runtime().exec_sync(request));
        assert_eq!(String::from_utf8_lossy(&answer.stdout), expected, "{name}");
        // It can be stopped by who is confined by nothing.
        pods.stop_container(&id, 0);
        assert_eq!(pods.log(&pods.status(&id)), expected, "{name}");
    }
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn what_the_default_profile_denies(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.without_network("one");
    let pod = pods.run(&of_pod);
    let script = "mount -t tmpfs x /dev/shm 2>/dev/null && echo mounted; \
        for file in sys/kernel/shm_rmid_forced sys/kernel/domainname sys/vm/swappiness sysrq-trigger self/comm; do \
        (echo 1 >/proc/$file) 2>/dev/null && echo $file; done; \
        sleep 1000 & kill $! && echo signalled; cat /proc/1/environ >/dev/null && echo seen";
    for (apparmor, expected) in [
        (None, "sys/kernel/shm_rmid_forced self/comm signalled seen"),
        (
            profile(cri::security_profile::ProfileType::Unconfined, ""),
            "mounted sys/kernel/shm_rmid_forced sys/kernel/domainname self/comm signalled seen",
        ),
    ] {
        let unconfined = apparmor.is_some();
        // Of the node's own files, only one that says what it said already is written to.
        let script = match unconfined {
            true => script.replace("sys/vm/swappiness sysrq-trigger", ""),
            false => script.to_owned(),
        };
        let mut config = pods.container(if unconfined { "free" } else { "confined" }, &script);
        let asked = security(&mut config);
        asked.apparmor = apparmor;
        let all = cri::Capability {
            add_capabilities: vec!["SYS_ADMIN".into()],
            ..Default::default()
        };
        asked.capabilities = Some(all);
        // Nothing but the profile is in the way.
        asked.seccomp = profile(cri::security_profile::ProfileType::Unconfined, "");
        let (said, _) = pods.finish(&pod, &of_pod, &config);
        let said: Vec<&str> = said.split_whitespace().collect();
        assert_eq!(said.join(" "), expected);
    }
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_profile_that_is_not_loaded_is_refused(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.without_network("one");
    let pod = pods.run(&of_pod);
    let mut config = pods.container("c", "true");
    let kind = cri::security_profile::ProfileType::Localhost;
    security(&mut config).apparmor = profile(kind, "no-such-profile-here");
    let request = crate::harness::pods::creation(&pod, &config, &of_pod);
    let node = &pods.node;
    let why = node.refused(node.runtime().create_container(request), Code::NotFound);
    assert!(
        why.contains("no-such-profile-here") && why.contains("is it loaded"),
        "{why}"
    );
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}
