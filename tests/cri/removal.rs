//! How images go, what keeps them, and what they take on the disk.

use crate::harness::cri::{Node, pull, spec};
use crate::harness::people::People;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use rustix::process::Signal;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(one_image_with_all_its_names_goes_with_any_of_them),
        test!(five_removals_at_once),
        test!(what_a_container_uses_stays_until_it_is_gone),
        test!(pinned_images),
        test!(what_images_take),
        test!(what_is_not_there),
    ]
}

fn one_image_with_all_its_names_goes_with_any_of_them(env: &Env) {
    let node = Node::new(env);
    let image = Image::with_file("a", b"b");
    let names = ["a/app:1", "a/app:2", "b/other:1"];
    for name in names {
        node.shelf.publish(name, &image);
    }
    let names = names.map(|name| node.shelf.name(name));
    for gone in &names {
        let ids: BTreeSet<String> = names.iter().map(|name| node.pull(name)).collect();
        assert_eq!(ids.len(), 1);
        let all = node.list();
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].repo_tags, names);
        assert_eq!(all[0].repo_digests.len(), 2, "{all:?}");
        node.remove(gone);
        for text in names.iter().chain(&ids) {
            assert_eq!(node.status(text), None, "{text}");
        }
        assert_eq!(node.shelf.counts(), (0, 0, 0));
    }
}

fn five_removals_at_once(env: &Env) {
    let node = Node::new(env);
    for n in 0..5 {
        node.shelf
            .publish(&format!("app:{n}"), &Image::with_file("a", b"b"));
        node.pull(&node.shelf.name(&format!("app:{n}")));
    }
    let client = node.images();
    node.wait(async {
        let mut removals = tokio::task::JoinSet::new();
        for n in 0..5 {
            let name = node.shelf.name(&format!("app:{n}"));
            let request = cri::RemoveImageRequest { image: spec(&name) };
            let mut client = client.clone();
            removals.spawn(async move { client.remove_image(request).await });
        }
        while let Some(removed) = removals.join_next().await {
            removed.unwrap().unwrap();
        }
    });
    assert_eq!(node.list(), []);
    assert_eq!(node.shelf.counts(), (0, 0, 0));
}

fn what_a_container_uses_stays_until_it_is_gone(env: &Env) {
    let node = Node::new(env);
    let people = People::new(env);
    people.run(&["--name=web"], &["true"]).ok();
    let image = node.list().remove(0);
    node.remove(&image.repo_tags[0]);
    assert_eq!(node.list(), []);
    let (blobs, layers, names) = people.shelf.counts();
    assert!(
        blobs > 0 && layers > 0 && names == 0,
        "{blobs} {layers} {names}"
    );
    people.shelf.ok(&["start", "web"]);
    people.shelf.ok(&["rm", "-f", "web"]);
    node.remove(&image.id);
    assert_eq!(people.shelf.counts(), (0, 0, 0));
}

fn pinned_images(env: &Env) {
    let node = Node::new(env);
    for name in ["pause:3", "app:1"] {
        node.shelf
            .publish(name, &Image::with_file("a", name.as_bytes()));
        node.pull(&node.shelf.name(name));
    }
    let pinned = || -> Vec<bool> { node.list().iter().map(|image| image.pinned).collect() };
    assert_eq!(pinned(), [false, false]);
    node.configure(json!({"pinned": [node.shelf.name("pause:3")]}));
    node.signal(Signal::HUP);
    let end = Instant::now() + Duration::from_secs(10);
    while pinned() != [false, true] {
        assert!(Instant::now() < end, "{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    // A mistake leaves what was.
    node.configure(json!({"pinned": ["A B"]}));
    node.signal(Signal::HUP);
    while !node.log().contains("the settings stay") {
        assert!(Instant::now() < end, "{}", node.log());
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(pinned(), [false, true]);
    // To remove it is the client's right nevertheless.
    node.remove(&node.shelf.name("pause:3"));
    assert_eq!(pinned(), [false]);
}

fn what_images_take(env: &Env) {
    let node = Node::new(env);
    let take = || {
        let info = node.ok(node.images().image_fs_info(cri::ImageFsInfoRequest {}));
        let (images, containers) = (&info.image_filesystems, &info.container_filesystems);
        assert_eq!((images.len(), containers.len()), (1, 1));
        let (images, containers) = (images[0].clone(), containers[0].clone());
        assert_eq!(
            images.fs_id.unwrap().mountpoint,
            node.shelf.path().to_str().unwrap()
        );
        assert_eq!(
            containers.fs_id.unwrap().mountpoint,
            node.shelf.path().to_str().unwrap()
        );
        assert!(images.timestamp > 0 && containers.timestamp > 0);
        assert_eq!(containers.used_bytes.unwrap().value, 0);
        (
            images.used_bytes.unwrap().value,
            images.inodes_used.unwrap().value,
        )
    };
    // Later answers may be as old as measuring takes; they come soon.
    let until = |good: &dyn Fn((u64, u64)) -> bool| {
        let end = Instant::now() + Duration::from_secs(10);
        while !good(take()) {
            assert!(Instant::now() < end, "{:?}", take());
            std::thread::sleep(Duration::from_millis(20));
        }
    };
    let empty = take();
    let layer = archive(&[("big", &noise(1 << 20, 1))]);
    node.shelf.publish("app", &Image::new(&[layer]));
    node.pull(&node.shelf.name("app"));
    until(&|(bytes, inodes)| bytes > empty.0 + (2 << 20) && inodes > empty.1 + 4);
    node.remove(&node.shelf.name("app"));
    until(&|now| now == empty);
}

fn what_is_not_there(env: &Env) {
    let node = Node::new(env);
    let name = node.shelf.name("none:1");
    assert_eq!(node.status(&name), None);
    node.remove(&name);
    node.remove("0123456789ab");
    node.remove("NOT A NAME");
    let said = node.refused(node.images().pull_image(pull(&name)), Code::NotFound);
    assert!(said.contains(&format!("cannot pull {name}")), "{said}");
    for image in [None, spec("")] {
        let request = cri::ImageStatusRequest {
            image: image.clone(),
            verbose: false,
        };
        node.refused(node.images().image_status(request), Code::InvalidArgument);
        let request = cri::RemoveImageRequest {
            image: image.clone(),
        };
        node.refused(node.images().remove_image(request), Code::InvalidArgument);
        let request = cri::PullImageRequest {
            image,
            ..Default::default()
        };
        node.refused(node.images().pull_image(request), Code::InvalidArgument);
    }
    let said = node.refused(
        node.images().pull_image(pull("NOT A NAME")),
        Code::InvalidArgument,
    );
    assert!(
        said.contains("invalid image reference \"NOT A NAME\""),
        "{said}"
    );
    let mut request = pull(&name);
    request.image.as_mut().unwrap().runtime_handler = "kata".to_owned();
    let said = node.refused(node.images().pull_image(request), Code::InvalidArgument);
    assert!(said.contains("no runtime handler \"kata\""), "{said}");
}
