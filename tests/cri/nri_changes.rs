//! NRI: what plugins change of containers, when they are made and later.

use crate::harness::nri::plugin::{answer, memory, nothing, update};
use crate::harness::nri::{About, Lab, key, self_call, until};
use crate::harness::{Env, Test, test};
use prost::Message;
use rcrun_cri::proto::v1 as cri;
use rcrun_nri::proto::v1alpha1 as nri;
use serde_json::{Value, json};
use std::path::PathBuf;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(adjustments_arrive_in_the_container),
        test!(hooks_of_plugins_run),
        test!(limits_of_plugins_hold_beside_the_kubelet_s),
        test!(evicted_containers_end),
    ]
}

/// A vendor's device, for CDI, whose directory is the machine's.
struct Vendor {
    file: PathBuf,
    name: String,
}

impl Vendor {
    fn new(env: &Env) -> Self {
        let directory = PathBuf::from("/var/run/cdi");
        std::fs::create_dir_all(&directory).unwrap();
        let edits = json!({
            "env": ["THING=1"],
            "deviceNodes": [{"path": "/dev/thing", "hostPath": "/dev/null"}],
        });
        let text = json!({
            "cdiVersion": "0.6.0", "kind": "rcrun.test/nri",
            "devices": [{"name": env.tag, "containerEdits": edits}],
        });
        let file = directory.join(format!("{}.json", env.tag));
        std::fs::write(&file, text.to_string()).unwrap();
        Self {
            file,
            name: format!("rcrun.test/nri={}", env.tag),
        }
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
        let _ = std::fs::remove_dir("/var/run/cdi");
    }
}

fn adjustments_arrive_in_the_container(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let file = env.path("of-plugin");
    std::fs::write(&file, "from a plugin\n").unwrap();
    let source = file.display().to_string();
    let vendor = Vendor::new(env);
    let adjust = nri::ContainerAdjustment {
        cdi_devices: vec![nri::CdiDevice {
            name: vendor.name.clone(),
        }],
        annotations: [("of.plugin".to_owned(), "yes".to_owned())].into(),
        env: vec![key("ADDED", "value"), key("A", "replaced")],
        mounts: vec![nri::Mount {
            destination: "/of/plugin".to_owned(),
            r#type: "bind".to_owned(),
            source,
            options: ["bind", "ro"].map(str::to_owned).into(),
        }],
        rlimits: vec![nri::PosixRlimit {
            r#type: "RLIMIT_NOFILE".to_owned(),
            hard: 77,
            soft: 66,
        }],
        linux: Some(nri::LinuxContainerAdjustment {
            resources: Some(memory(64 << 20)),
            oom_score_adj: Some(nri::OptionalInt { value: 321 }),
            ..Default::default()
        }),
        ..Default::default()
    };
    let _plugin = lab.adjusting("hands", adjust);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "echo $ADDED $A; cat /of/plugin; ulimit -n; cat /proc/self/oom_score_adj; \
                  echo x 2>/dev/null >/of/plugin || echo read-only; echo $THING; ls /dev/thing; exec sleep 1000";
    let id = pods.create(&pod, &pods.container("c", script), &of_pod);
    pods.start(&id);
    let expected = "value replaced\nfrom a plugin\n66\n321\nread-only\n1\n/dev/thing\n";
    until(
        || pods.log(&pods.status(&id)) == expected,
        || pods.log(&pods.status(&id)),
    );
    assert_eq!(lab.memory(&id), (64 << 20).to_string());
    let request = cri::ContainerStatusRequest {
        container_id: id.clone(),
        verbose: true,
    };
    let verbose = pods.node.ok(pods.node.runtime().container_status(request));
    let info: Value = serde_json::from_str(&verbose.info["info"]).unwrap();
    assert_eq!(info["runtimeSpec"]["annotations"]["of.plugin"], "yes");
    // A kubelet that asks for something else leaves it, one that asks for memory has the last word.
    let asked = |cpu_shares, memory_limit_in_bytes| cri::LinuxContainerResources {
        cpu_shares,
        memory_limit_in_bytes,
        ..Default::default()
    };
    lab.update(&id, asked(512, 0));
    assert_eq!(lab.memory(&id), (64 << 20).to_string());
    lab.update(&id, asked(0, 96 << 20));
    assert_eq!(lab.memory(&id), (96 << 20).to_string());
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn hooks_of_plugins_run(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let noted = env.path("noted");
    let hook = |kind: &str, code: i32| {
        let script = format!(
            "cat >/dev/null; echo {kind} >>{}; exit {code}",
            noted.display()
        );
        nri::Hook {
            path: env.script(kind, &script).display().to_string(),
            ..Default::default()
        }
    };
    let adjust = nri::ContainerAdjustment {
        hooks: Some(nri::Hooks {
            create_runtime: vec![hook("createRuntime", 0)],
            poststart: vec![hook("poststart", 0)],
            // A failure is a warning, and the next one runs.
            poststop: vec![hook("poststop", 3), hook("poststop-again", 0)],
            ..Default::default()
        }),
        ..Default::default()
    };
    let _plugin = lab.adjusting("hooks", adjust);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let all = "createRuntime\npoststart\npoststop\npoststop-again\n";
    // One that ends, one that is stopped, and one whose end a killed server did not see.
    let ends = pods.create(&pod, &pods.container("ends", "exit 4"), &of_pod);
    pods.start(&ends);
    assert_eq!(pods.ended(&ends).exit_code, 4);
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), all);
    assert!(
        pods.node.log().contains("exit code 3"),
        "{}",
        pods.node.log()
    );
    std::fs::remove_file(&noted).unwrap();

    let stopped = lab.sleep(&pod, &of_pod, "stopped");
    pods.stop_container(&stopped, 0);
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), all);
    std::fs::remove_file(&noted).unwrap();

    let unseen = pods.create(
        &pod,
        &pods.container(
            "unseen",
            "until [ -e /dev/shm/go ]; do sleep 0.01; done; exit 5",
        ),
        &of_pod,
    );
    pods.start(&unseen);
    let go = env.rt.root.join(".cri/pods").join(&pod).join("shm/go");
    pods.node.kill();
    std::fs::write(&go, "").unwrap();
    pods.node.start();
    assert_eq!(pods.ended(&unseen).exit_code, 5);
    pods.remove(&pod);
    assert_eq!(std::fs::read_to_string(&noted).unwrap(), all);
    pods.assert_nothing_left();
}

fn limits_of_plugins_hold_beside_the_kubelet_s(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let (pod, of_pod, first) = lab.sleeper("one");
    let other = first.clone();
    let plugin = lab.join("limits", &[], move |method, payload| {
        let about = About::decode(payload).unwrap_or_default();
        let id = about.container.unwrap_or_default().id;
        match method {
            // Another one's, when one is made.
            "CreateContainer" => answer(&nri::CreateContainerResponse {
                update: vec![update(&other, memory(48 << 20))],
                ..Default::default()
            }),
            // Its own, when it is changed.
            "UpdateContainer" if id != other => answer(&nri::UpdateContainerResponse {
                update: vec![update(&id, memory(32 << 20))],
                ..Default::default()
            }),
            _ => nothing(),
        }
    });
    let second = lab.sleep(&pod, &of_pod, "second");
    assert_eq!(lab.memory(&first), (48 << 20).to_string());
    lab.update(
        &second,
        cri::LinuxContainerResources {
            memory_limit_in_bytes: 80 << 20,
            ..Default::default()
        },
    );
    assert_eq!(lab.memory(&second), (32 << 20).to_string());
    // The kubelet is told what it asked for.
    let told = pods.status(&second).resources.unwrap().linux.unwrap();
    assert_eq!(told.memory_limit_in_bytes, 80 << 20);
    // Without an event; one that is not there fails nothing, one that cannot be does.
    let ask = |update: nri::ContainerUpdate| {
        let request = nri::UpdateContainersRequest {
            update: vec![update],
            evict: Vec::new(),
        };
        let answer = self_call(&lab, &plugin, &request);
        nri::UpdateContainersResponse::decode(&answer[..])
            .unwrap()
            .failed
            .len()
    };
    assert_eq!(ask(update(&first, memory(40 << 20))), 0);
    assert_eq!(lab.memory(&first), (40 << 20).to_string());
    assert_eq!(ask(update("no-such-container", memory(1 << 20))), 0);
    assert_eq!(ask(update(&first, memory(-7))), 1);
    // It is remembered by another server.
    pods.node.kill();
    pods.node.start();
    lab.update(
        &first,
        cri::LinuxContainerResources {
            cpu_shares: 512,
            ..Default::default()
        },
    );
    assert_eq!(lab.memory(&first), (40 << 20).to_string());
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn evicted_containers_end(env: &Env) {
    let lab = Lab::new(env);
    let pods = &lab.pods;
    let (pod, of_pod, victim) = lab.sleeper("one");
    let whom = victim.clone();
    let _plugin = lab.join(
        "evicts",
        &[nri::Event::CreateContainer],
        move |method, _| match method {
            "CreateContainer" => answer(&nri::CreateContainerResponse {
                evict: vec![nri::ContainerEviction {
                    container_id: whom.clone(),
                    reason: "no room".to_owned(),
                }],
                ..Default::default()
            }),
            _ => nothing(),
        },
    );
    let next = lab.sleep(&pod, &of_pod, "next");
    let status = pods.status(&victim);
    assert_eq!(status.state(), cri::ContainerState::ContainerExited);
    assert_eq!(status.exit_code, 137);
    assert_eq!(
        pods.status(&next).state(),
        cri::ContainerState::ContainerRunning
    );
    pods.remove(&pod);
    pods.assert_nothing_left();
}
