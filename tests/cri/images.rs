//! What is told of images.

use crate::harness::cri::{Node, spec};
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Test, test};
use rcrun_cri::proto::v1 as cri;
use serde_json::{Value, json};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(every_field_of_an_image),
        test!(a_digest_has_no_tag),
        test!(all_kinds_of_references),
        test!(users),
        test!(an_index_is_the_image_for_this_machine),
        test!(an_image_for_another_machine_can_only_be_removed),
        test!(a_moved_tag_leaves_an_image_without),
        test!(lists_are_filtered),
        test!(lists_come_in_pieces),
        test!(verbose_status),
        test!(what_others_do_is_seen_at_once),
        test!(an_image_that_lacks_something_is_pulled_again),
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
