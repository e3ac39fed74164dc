//! What is told of images, and how they go.

use crate::harness::cri::{Node, spec};
use crate::harness::people::People;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use rustix::process::Signal;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tonic::Code;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(every_field_of_an_image),
        test!(a_digest_has_no_tag),
        test!(all_kinds_of_references),
        test!(one_image_with_all_its_names_goes_with_any_of_them),
        test!(users),
        test!(an_index_is_the_image_for_this_machine),
        test!(an_image_for_another_machine_can_only_be_removed),
        test!(a_moved_tag_leaves_an_image_without),
        test!(lists_are_filtered),
        test!(lists_come_in_pieces),
        test!(verbose_status),
        test!(what_is_not_there),
        test!(five_removals_at_once),
        test!(what_a_container_uses_stays_until_it_is_gone),
        test!(what_others_do_is_seen_at_once),
        test!(an_image_that_lacks_something_is_pulled_again),
        test!(pinned_images),
        test!(what_images_take),
    ]
}

fn every_field_of_an_image(env: &Env) {
    let node = Node::new(env);
    let layer = archive(&[("big", &noise(300_000, 1))]);
    let image = node.shelf.publish("a/app:1", &Image::new(&[layer]));
    let name = node.shelf.name("a/app:1");
    assert_eq!(node.list(), []);
    assert_eq!(node.pull(&name), image.id);
    let found = node.list().remove(0);
    assert!(found.size > 300_000, "{found:?}");
    let expected = cri::Image {
        id: image.id,
        repo_tags: vec![name.clone()],
        repo_digests: vec![format!("{}@{}", node.shelf.name("a/app"), image.manifest)],
        size: found.size,
        uid: None,
        username: String::new(),
        spec: None,
        pinned: false,
    };
    assert_eq!(found, expected);
    assert_eq!(node.status(&name), Some(expected));
    node.remove(&name);
    assert_eq!((node.list(), node.status(&name)), (vec![], None));
    assert_eq!(node.shelf.counts(), (0, 0, 0), "its space is free");
}

fn a_digest_has_no_tag(env: &Env) {
    let node = Node::new(env);
    let image = node.shelf.publish("app:1", &Image::with_file("a", b"b"));
    let by_digest = format!("{}@{}", node.shelf.name("app"), image.manifest);
    let both = format!("{}@{}", node.shelf.name("app:1"), image.manifest);
    for name in [&by_digest, &both] {
        assert_eq!(node.pull(name), image.id);
        let found = node.status(name).unwrap();
        assert_eq!(
            (found.repo_tags.len(), &found.repo_digests),
            (0, &vec![by_digest.clone()])
        );
        assert_eq!(node.list(), [found]);
        node.remove(name);
    }
}

fn all_kinds_of_references(env: &Env) {
    let node = Node::new(env);
    let image = node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    node.pull(&name);
    let found = node.status(&name);
    for text in [
        format!("{name}:latest"),
        format!("{name}@{}", image.manifest),
        format!("{name}:other@{}", image.manifest),
        image.id.clone(),
        image.id[7..].to_owned(),
        image.id[7..19].to_owned(),
        image.manifest.clone(),
    ] {
        assert_eq!(node.status(&text), found, "{text}");
    }
    for text in [
        format!("{name}:other"),
        node.shelf.name("ap"),
        format!("{name}@{}", image.id),
    ] {
        assert_eq!(node.status(&text), None, "{text}");
    }
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

fn users(env: &Env) {
    let node = Node::new(env);
    for (n, (user, uid, username)) in [
        ("1002", Some(1002), ""),
        ("1003:1004", Some(1003), ""),
        ("www", None, "www"),
        ("www:1004", None, "www"),
        ("0", Some(0), ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mut image = Image::with_file("a", b"b");
        image.config = json!({"User": user});
        node.shelf.publish(&format!("app:{n}"), &image);
        let name = node.shelf.name(&format!("app:{n}"));
        node.pull(&name);
        let found = node.status(&name).unwrap();
        assert_eq!(found.uid.map(|uid| uid.value), uid, "{user}");
        assert_eq!(found.username, username);
    }
    assert_eq!(node.list().len(), 5);
}

fn two_platforms(node: &Node<'_>) -> (String, String, String) {
    let mut other = Image::with_file("a", b"other");
    other.platform = ("linux", "s390x");
    let host = Image::with_file("a", b"host");
    let (one, two) = (
        node.shelf.publish("app:h", &host),
        node.shelf.publish("app:o", &other),
    );
    let arch = host.platform.1;
    let index = node
        .shelf
        .publish_index("app", &[(&two, "s390x"), (&one, arch)]);
    (index, one.id, two.id)
}

fn an_index_is_the_image_for_this_machine(env: &Env) {
    let node = Node::new(env);
    let (index, host, _) = two_platforms(&node);
    let name = node.shelf.name("app");
    assert_eq!(node.pull(&name), host);
    let found = node.status(&name).unwrap();
    assert_eq!(found.repo_digests, [format!("{name}@{index}")]);
    assert_eq!(node.status(&format!("{name}@{index}")), Some(found.clone()));
    // With all platforms here, it is still one image.
    node.shelf.ok(&["pull", "-q", "--all-platforms", &name]);
    assert_eq!(node.list(), [found]);
    node.remove(&host);
    assert_eq!(node.shelf.counts(), (0, 0, 0));
}

fn an_image_for_another_machine_can_only_be_removed(env: &Env) {
    let node = Node::new(env);
    let (_, host, other) = two_platforms(&node);
    let name = node.shelf.name("app");
    node.shelf
        .ok(&["pull", "-q", "--platform", "linux/s390x", &name]);
    // The kubelet is to pull what this machine can run.
    assert_eq!(node.status(&name), None);
    let found = node.list().remove(0);
    assert_eq!(
        (&found.id, found.repo_tags.len(), found.repo_digests.len()),
        (&other, 0, 0)
    );
    assert_eq!(node.pull(&name), host);
    let ids: Vec<String> = node.list().into_iter().map(|image| image.id).collect();
    assert_eq!(ids, [host]);
    node.remove(&name);
    node.shelf
        .ok(&["pull", "-q", "--platform", "linux/s390x", &name]);
    node.remove(&other);
    assert_eq!(node.list(), []);
    assert_eq!(node.shelf.counts(), (0, 0, 0));
}

fn a_moved_tag_leaves_an_image_without(env: &Env) {
    let node = Node::new(env);
    let old = node.shelf.publish("app", &Image::with_file("a", b"old"));
    let name = node.shelf.name("app");
    node.pull(&name);
    let new = node.shelf.publish("app", &Image::with_file("a", b"new"));
    assert_eq!(node.pull(&name), new.id);
    let old = node.status(&old.id).unwrap();
    assert_eq!(
        (old.repo_tags.len(), old.repo_digests.len()),
        (0, 1),
        "{old:?}"
    );
    assert_eq!(node.list().len(), 2);
    node.remove(&old.id);
    assert_eq!(node.list()[0].id, new.id);
    assert_eq!(node.shelf.counts(), (3, 1, 1));
}

fn lists_are_filtered(env: &Env) {
    let node = Node::new(env);
    for n in ["1", "2"] {
        node.shelf
            .publish(&format!("app:{n}"), &Image::with_file("a", n.as_bytes()));
        node.pull(&node.shelf.name(&format!("app:{n}")));
    }
    let list = |name: &str| {
        let filter = Some(cri::ImageFilter { image: spec(name) });
        let request = cri::ListImagesRequest {
            filter: filter.clone(),
        };
        let images = node.ok(node.images().list_images(request)).images;
        let request = cri::StreamImagesRequest { filter };
        let mut streamed = Vec::new();
        let mut stream = node.ok(node.images().stream_images(request));
        while let Some(piece) = node.wait(stream.message()).unwrap() {
            streamed.extend(piece.images);
        }
        assert_eq!(images, streamed);
        images
            .into_iter()
            .flat_map(|image| image.repo_tags)
            .collect::<Vec<_>>()
    };
    let (one, two) = (node.shelf.name("app:1"), node.shelf.name("app:2"));
    assert_eq!(list(""), [one.clone(), two.clone()]);
    assert_eq!(list(&two), [two]);
    assert!(list(&node.shelf.name("app:3")).is_empty());
}

fn lists_come_in_pieces(env: &Env) {
    const IMAGES: usize = 101;
    let node = Node::new(env);
    let client = node.images();
    let names: Vec<String> = (0..IMAGES)
        .map(|n| {
            let mut image = Image::with_file("a", b"the same layer");
            image.config = json!({"Labels": {"number": n.to_string()}});
            node.shelf.publish(&format!("app:{n}"), &image);
            node.shelf.name(&format!("app:{n}"))
        })
        .collect();
    node.wait(async {
        let mut pulls = tokio::task::JoinSet::new();
        for name in &names {
            let (mut client, request) = (client.clone(), crate::harness::cri::pull(name));
            pulls.spawn(async move { client.pull_image(request).await });
        }
        while let Some(pulled) = pulls.join_next().await {
            pulled.unwrap().unwrap();
        }
    });
    let mut stream = node.ok(node
        .images()
        .stream_images(cri::StreamImagesRequest::default()));
    let (mut pieces, mut found) = (0, Vec::new());
    while let Some(piece) = node.wait(stream.message()).unwrap() {
        assert!(!piece.images.is_empty());
        pieces += 1;
        found.extend(piece.images);
    }
    assert_eq!((pieces, found.len()), (2, IMAGES));
    assert_eq!(found, node.list());
}

fn verbose_status(env: &Env) {
    let node = Node::new(env);
    let mut image = Image::with_file("a", b"b");
    image.config = json!({"Cmd": ["run", "me"], "ExposedPorts": {"80/tcp": {}}});
    let published = node.shelf.publish("app", &image);
    node.pull(&node.shelf.name("app"));
    let request = cri::ImageStatusRequest {
        image: spec(&published.id),
        verbose: true,
    };
    let answer = node.ok(node.images().image_status(request));
    let info: Value = serde_json::from_str(&answer.info["info"]).unwrap();
    assert_eq!(info["imageSpec"]["config"], image.config);
    assert_eq!(info["imageSpec"]["os"], "linux");
    assert_eq!(info["chainID"], info["imageSpec"]["rootfs"]["diff_ids"][0]);
}

fn what_is_not_there(env: &Env) {
    let node = Node::new(env);
    let name = node.shelf.name("none:1");
    assert_eq!(node.status(&name), None);
    node.remove(&name);
    node.remove("0123456789ab");
    node.remove("NOT A NAME");
    let said = node.refused(
        node.images().pull_image(crate::harness::cri::pull(&name)),
        Code::NotFound,
    );
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
        node.images()
            .pull_image(crate::harness::cri::pull("NOT A NAME")),
        Code::InvalidArgument,
    );
    assert!(
        said.contains("invalid image reference \"NOT A NAME\""),
        "{said}"
    );
    let mut request = crate::harness::cri::pull(&name);
    request.image.as_mut().unwrap().runtime_handler = "kata".to_owned();
    let said = node.refused(node.images().pull_image(request), Code::InvalidArgument);
    assert!(said.contains("no runtime handler \"kata\""), "{said}");
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

fn what_others_do_is_seen_at_once(env: &Env) {
    let node = Node::new(env);
    let image = node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    for _ in 0..3 {
        node.shelf.ok(&["pull", "-q", &name]);
        assert_eq!(node.status(&name).unwrap().id, image.id);
        node.shelf.ok(&["tag", &name, "mine.lan/x:1"]);
        assert_eq!(node.list()[0].repo_tags.len(), 2);
        node.shelf.ok(&["untag", &name]);
        assert_eq!(
            node.status("mine.lan/x:1").unwrap().repo_tags,
            ["mine.lan/x:1"]
        );
        assert_eq!(node.status(&name), None);
        node.shelf.ok(&["rmi", "-f", &image.id]);
        assert_eq!(node.list(), []);
    }
}

fn an_image_that_lacks_something_is_pulled_again(env: &Env) {
    let node = Node::new(env);
    let image = node.shelf.publish("app", &Image::with_file("a", b"b"));
    let name = node.shelf.name("app");
    node.pull(&name);
    node.shelf.settle();
    for digest in [&image.id, &image.manifest] {
        // As `fsck --repair` does with a blob that is damaged.
        let damaged = node
            .shelf
            .path()
            .join("content/damaged")
            .join(digest.replace(':', "-"));
        std::fs::rename(node.shelf.blob(digest), &damaged).unwrap();
        assert_eq!(
            (node.list(), node.status(&name)),
            (vec![], None),
            "{digest}"
        );
        assert!(node.log().contains("pull it again"), "{}", node.log());
        assert_eq!(node.pull(&name), image.id);
        assert!(node.status(&name).is_some());
        std::fs::remove_file(damaged).unwrap();
    }
    // What is unpacked needs no archive to run.
    let layer = node.shelf.blob(&image.layers[0].to_string());
    std::fs::rename(
        &layer,
        node.shelf.path().join("content/damaged/sha256-layer"),
    )
    .unwrap();
    assert!(node.status(&name).is_some());
    assert_eq!(node.pull(&name), image.id);
    assert!(layer.exists());
    std::fs::remove_file(node.shelf.path().join("content/damaged/sha256-layer")).unwrap();
    assert_eq!(node.shelf.call(&["fsck", "-q"]).code, 0);
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
