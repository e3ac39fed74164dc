//! What a kubelet 1.36 sent about images (fixtures/kubelet), sent again, in the order in which it does.
//!
//! The recorded answers are another server's: of these, what a kubelet relies on has to be the same.

use crate::harness::cri::Node;
use crate::harness::pods::Pods;
use crate::harness::store::Image;
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::{Value, json};
use std::collections::BTreeMap;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(a_container_is_told_the_name_of_its_image),
        test!(what_it_asks_when_it_starts),
        test!(what_it_asks_of_images),
    ]
}

/// Where it pulled from.
const HOST: &str = "127.0.0.1:5055";

fn recorded(name: &str) -> Value {
    let path = format!(
        "{}/fixtures/kubelet/{name}.json",
        env!("CARGO_MANIFEST_DIR")
    );
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn map(value: &Value) -> BTreeMap<String, String> {
    let members = value.as_object().into_iter().flatten();
    members
        .map(|(name, value)| (name.clone(), text(value)))
        .collect()
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}

fn image_spec(value: &Value, host: &str) -> Option<cri::ImageSpec> {
    Some(cri::ImageSpec {
        image: text(&value["image"]).replace(HOST, host),
        annotations: map(&value["annotations"]),
        ..Default::default()
    })
}

/// The parts of a sandbox's configuration that the recorded one has and that have to do with a pull.
fn sandbox(value: &Value) -> Option<cri::PodSandboxConfig> {
    let (metadata, dns) = (&value["metadata"], &value["dns_config"]);
    Some(cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: text(&metadata["name"]),
            uid: text(&metadata["uid"]),
            namespace: text(&metadata["namespace"]),
            attempt: 0,
        }),
        hostname: text(&value["hostname"]),
        log_directory: text(&value["log_directory"]),
        dns_config: Some(cri::DnsConfig {
            servers: list(&dns["servers"]),
            searches: list(&dns["searches"]),
            options: Vec::new(),
        }),
        labels: map(&value["labels"]),
        annotations: map(&value["annotations"]),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: text(&value["linux"]["cgroup_parent"]),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// A server with the settings of that node.
fn node(env: &Env) -> Node<'_> {
    let node = Node::prepare(env, Default::default());
    node.configure(json!({"pinned": [node.shelf.name("pause:3.10")], "cgroup_driver": "cgroupfs"}));
    node.start();
    node
}

fn what_it_asks_when_it_starts(env: &Env) {
    let node = node(env);
    let version = recorded("Version");
    let request = cri::VersionRequest {
        version: text(&version["req"]["version"]),
    };
    let answer = node.ok(node.runtime().version(request));
    assert_eq!(answer.version, text(&version["resp"]["version"]));
    assert_eq!(
        answer.runtime_api_version,
        text(&version["resp"]["runtime_api_version"])
    );

    let config = recorded("RuntimeConfig");
    let answer = node.ok(node.runtime().runtime_config(cri::RuntimeConfigRequest {}));
    let driver = answer.linux.unwrap().cgroup_driver();
    assert_eq!(
        driver.as_str_name(),
        text(&config["resp"]["linux"]["cgroup_driver"])
    );

    // Without an answer to this it ends when it starts.
    let recorded_info = recorded("ImageFsInfo");
    let recorded_info = recorded_info["resp"]["image_filesystems"][0]
        .as_object()
        .unwrap();
    let answer = node.ok(node.images().image_fs_info(cri::ImageFsInfoRequest {}));
    let info = &answer.image_filesystems[0];
    assert_eq!(recorded_info.len(), 4, "members: {recorded_info:?}");
    assert!(info.timestamp > 0 && info.used_bytes.is_some() && info.inodes_used.is_some());
    assert!(info.fs_id.as_ref().unwrap().mountpoint.starts_with('/'));
}

fn what_it_asks_of_images(env: &Env) {
    let node = node(env);
    let host = node.shelf.registry.host();
    // The images that its pods had, with their users.
    let images = recorded("ListImages");
    let images = images["resp"]["images"].as_array().unwrap();
    for image in images {
        let name = text(&image["repo_tags"][0]).replace(&format!("{HOST}/"), "");
        let mut made = Image::with_file("name", name.as_bytes());
        let user = image["uid"]["value"]
            .as_str()
            .or(image["username"].as_str());
        made.config = json!({"User": user.unwrap_or_default()});
        node.shelf.publish(&name, &made);
    }
    let request = recorded("ImageStatus");
    let status = || {
        let image = image_spec(&request["req"]["image"], &host);
        let request = cri::ImageStatusRequest {
            image,
            verbose: false,
        };
        node.ok(node.images().image_status(request)).image
    };
    assert_eq!(status(), None, "before it is pulled");
    let pull = recorded("PullImage");
    let pull = cri::PullImageRequest {
        image: image_spec(&pull["req"]["image"], &host),
        auth: None,
        sandbox_config: sandbox(&pull["req"]["sandbox_config"]),
    };
    let id = node.ok(node.images().pull_image(pull.clone())).image_ref;
    let name = pull.image.unwrap().image;
    assert_eq!(node.status(&name).unwrap().id, id);
    assert_eq!(node.status(&id).unwrap().repo_tags, [name]);
    for image in images {
        node.pull(&text(&image["repo_tags"][0]).replace(HOST, &host));
    }
    assert_eq!(
        status().unwrap().username,
        text(&request["resp"]["image"]["username"])
    );
    let mut found = node.list();
    assert_eq!(found.len(), images.len());
    for image in images {
        let tag = text(&image["repo_tags"][0]).replace(HOST, &host);
        let at = found.iter().position(|one| one.repo_tags == [tag.clone()]);
        let one = found.remove(at.unwrap_or_else(|| panic!("{tag}")));
        let uid = image["uid"]["value"]
            .as_str()
            .map(|uid| uid.parse::<i64>().unwrap());
        assert_eq!(one.uid.map(|uid| uid.value), uid, "{tag}");
        assert_eq!(one.username, text(&image["username"]), "{tag}");
        assert_eq!(one.pinned, image["pinned"] == true, "{tag}");
        let repository = tag.rsplit_once(':').unwrap().0;
        assert!(
            one.repo_digests[0].starts_with(&format!("{repository}@sha256:")),
            "{one:?}"
        );
        assert!(one.id.starts_with("sha256:") && one.size > 0);
    }
}

/// A kubelet compares it with the pod's specification, to see whether a change of the image has come to be.
fn a_container_is_told_the_name_of_its_image(env: &Env) {
    let pods = Pods::new(env);
    let config = json!({"Cmd": ["/bin/sh"]});
    let id = pods.image("two:1", config.clone());
    assert_eq!(pods.image("two:2", config), id);
    let name = |tag: &str| pods.node.shelf.name(&format!("two:{tag}"));
    let of_pod = pods.pod("named");
    let pod = pods.run(&of_pod);
    let told = |asked: cri::ImageSpec, container: &str| {
        let mut config = pods.container(container, "sleep 1000");
        config.image = Some(asked);
        let id = pods.create(&pod, &config, &of_pod);
        (pods.status(&id).image.unwrap().image, id)
    };
    let asked = |image: &str, user: &str| cri::ImageSpec {
        image: image.to_owned(),
        user_specified_image: user.to_owned(),
        ..Default::default()
    };
    for (number, (asked, expected)) in [
        (asked(&id, &name("2")), name("2")),
        (asked(&id, ""), name("1")),
        (asked(&name("2"), ""), name("2")),
        // Another image's name, or none at all.
        (asked(&id, &pods.node.shelf.name("app")), name("1")),
        (asked(&id, "what:is/this"), name("1")),
    ]
    .into_iter()
    .enumerate()
    {
        assert_eq!(told(asked, &format!("c{number}")).0, expected);
    }
    let (told, last) = told(asked(&id, &name("2")), "last");
    pods.node.kill();
    pods.node.start();
    assert_eq!(pods.status(&last).image.unwrap().image, told);
    pods.remove(&pod);
    pods.assert_nothing_left();
}
