//! Pods whose cgroups systemd makes: slices of the kubelet's, scopes below them.

use crate::harness::pods::Pods;
use crate::harness::{Env, Need, Test, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stats::{resources, until};

pub(super) fn tests() -> Vec<Test> {
    let tests = vec![
        test!(a_container_is_a_scope_of_the_pods_slice),
        test!(want_of_memory_is_told_though_the_scope_goes).timeout(120),
    ];
    let needs = |test: Test| test.needs(Need::Systemd);
    tests.into_iter().map(needs).collect()
}

/// A server with this driver, and a slice that goes with the test.
struct World<'e> {
    pods: Pods<'e>,
    slice: String,
}

impl<'e> World<'e> {
    fn new(env: &'e Env) -> Self {
        let name = env.unique().to_string().replace('-', "_");
        Self {
            pods: Pods::with(env, &json!({"cgroup_driver": "systemd"})),
            slice: format!("rcruntest{name}.slice"),
        }
    }

    fn pod(&self) -> cri::PodSandboxConfig {
        let mut config = self.pods.without_network("one");
        let linux = config.linux.get_or_insert_default();
        linux.cgroup_parent = format!("/{}/{}", self.slice, self.of_pod());
        config
    }

    fn directory(&self) -> PathBuf {
        Path::new("/sys/fs/cgroup")
            .join(&self.slice)
            .join(self.of_pod())
    }

    /// The slice of the pod, below the other one.
    fn of_pod(&self) -> String {
        self.slice.replace(".slice", "-podone.slice")
    }

    fn scope(&self, id: &str, file: &str) -> String {
        let path = self.directory().join(format!("rcrun-{id}.scope/{file}"));
        std::fs::read_to_string(path).unwrap().trim().to_owned()
    }

    /// Scopes that systemd knows, whatever their state.
    fn units(&self, id: &str) -> String {
        let name = format!("rcrun-{id}.scope");
        systemctl(&["list-units", "--all", "--no-legend", "--plain", &name])
    }
}

impl Drop for World<'_> {
    fn drop(&mut self) {
        systemctl(&["stop", &self.slice]);
    }
}

fn systemctl(arguments: &[&str]) -> String {
    let output = Command::new("systemctl").args(arguments).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn a_container_is_a_scope_of_the_pods_slice(env: &Env) {
    let world = World::new(env);
    let pods = &world.pods;
    let asked = cri::RuntimeConfigRequest {};
    let answer = pods.node.ok(pods.node.runtime().runtime_config(asked));
    assert_eq!(
        answer.linux.unwrap().cgroup_driver(),
        cri::CgroupDriver::Systemd
    );
    let config = world.pod();
    let pod = pods.run(&config);
    let mut container = pods.container("c", "sleep 1000");
    let limits = resources(&mut container);
    limits.memory_limit_in_bytes = 64 << 20;
    limits.cpu_shares = 512;
    limits
        .unified
        .insert("memory.oom.group".to_owned(), "1".to_owned());
    let id = pods.create(&pod, &container, &config);
    pods.start(&id);
    let processes = world.scope(&id, "cgroup.procs");
    assert!(
        processes.contains(&pods.pid(&id).to_string()),
        "{processes}"
    );
    let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
    let monitors = world.scope(&id, "cgroup.procs").lines().count();
    assert_eq!(monitors, 1, "its monitor is elsewhere: {own}");
    assert_eq!(world.scope(&id, "memory.max"), (64 << 20).to_string());
    assert_eq!(world.scope(&id, "memory.oom.group"), "1");
    // systemd knows of an update, and so does not undo it when it is reloaded.
    let request = cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 96 << 20,
            ..Default::default()
        }),
        ..Default::default()
    };
    pods.node
        .ok(pods.node.runtime().update_container_resources(request));
    systemctl(&["daemon-reload"]);
    assert_eq!(world.scope(&id, "memory.max"), (96 << 20).to_string());
    let unit = format!("rcrun-{id}.scope");
    let told = systemctl(&["show", "--value", "-p", "MemoryMax", &unit]);
    assert_eq!(told, (96 << 20).to_string());
    let request = cri::ContainerStatsRequest {
        container_id: id.clone(),
    };
    let stats = pods.node.ok(pods.node.runtime().container_stats(request));
    let stats = stats.stats.unwrap();
    let figure = |value: Option<cri::UInt64Value>| value.unwrap().value;
    assert!(figure(stats.cpu.unwrap().usage_core_nano_seconds) > 0);
    let memory = stats.memory.unwrap();
    assert!(figure(memory.working_set_bytes) > 0);
    assert!(figure(memory.available_bytes) < 96 << 20);
    pods.stop_container(&id, 0);
    pods.remove_container(&id);
    assert_eq!(world.units(&id), "");
    assert!(!world.directory().join(&unit).exists());
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn want_of_memory_is_told_though_the_scope_goes(env: &Env) {
    let world = World::new(env);
    let pods = &world.pods;
    let config = world.pod();
    let pod = pods.run(&config);
    for round in 0..5 {
        let name = format!("c{round}");
        let mut container = pods.container(&name, "exec dd if=/dev/zero of=/dev/null bs=64M");
        resources(&mut container).memory_limit_in_bytes = 16 << 20;
        let id = pods.create(&pod, &container, &config);
        pods.start(&id);
        let status = pods.ended(&id);
        assert_eq!(
            (status.reason.as_str(), status.exit_code),
            ("OOMKilled", 137),
            "{round}"
        );
        until("the scope goes", || world.units(&id).is_empty());
    }
    // Who is killed for another reason is not taken for one of those.
    let container = pods.container("killed", "sleep 1000");
    let id = pods.create(&pod, &container, &config);
    pods.start(&id);
    pods.stop_container(&id, 0);
    assert_eq!(pods.status(&id).reason, "Error");
    pods.stop(&pod);
    pods.remove(&pod);
    pods.assert_nothing_left();
}
