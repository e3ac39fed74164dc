//! What stands in a layout's files.

use super::*;
use crate::stored::plain;

fn target(text: &str) -> Descriptor {
    plain(media::OCI_MANIFEST, &Digest::of(text.as_bytes()), 1)
}

fn label(name: Option<&str>, image: Option<&str>) -> Label {
    Label {
        name: name.map(str::to_owned),
        image: image.map(|image| image.parse().unwrap()),
    }
}

#[test]
fn which_entry_a_new_one_replaces() {
    // Old label, new label, whether it is replaced; the images differ.
    let cases = [
        (label(Some("v1"), None), label(Some("v1"), None), true),
        (label(Some("v1"), None), label(Some("v2"), None), false),
        (
            label(Some("v1"), Some("a:v1")),
            label(Some("v1"), Some("b:v1")),
            false,
        ),
        (
            label(Some("v1"), Some("a:v1")),
            label(None, Some("a:v1")),
            true,
        ),
        (
            label(Some("v1"), Some("a:v1")),
            label(Some("v1"), None),
            true,
        ),
        (label(Some("v1"), None), label(None, Some("a:v1")), false),
        (label(None, None), label(None, None), false),
        (label(Some("v1"), None), label(None, None), false),
    ];
    for (old, new, replaced) in cases {
        let before = with_entry(None, &target("old"), &old).unwrap();
        let after = with_entry(Some(&before), &target("new"), &new).unwrap();
        let count = entries(&after).unwrap().len();
        assert_eq!(count == 1, replaced, "{old:?} {new:?}");
        // The same once more changes nothing.
        assert_eq!(
            with_entry(Some(&after), &target("new"), &new).unwrap(),
            after
        );
    }
}

#[test]
fn what_others_wrote_stays() {
    let before = r#"{"schemaVersion":2,"x-own":{"z":1},"annotations":{"a":"b"},
        "manifests":[{"mediaType":"application/x-other","digest":"sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855","size":0,"x":1}]}"#;
    let after = with_entry(Some(before.as_bytes()), &target("new"), &label(None, None)).unwrap();
    let value: Value = serde_json::from_slice(&after).unwrap();
    assert_eq!(value["x-own"]["z"], 1);
    assert_eq!(value["manifests"][0]["x"], 1);
    assert_eq!(value["manifests"].as_array().unwrap().len(), 2);
    // Entries of other kinds are not ours to choose.
    assert_eq!(entries(&after).unwrap().len(), 1);
    for wrong in ["", "{}", "[]", r#"{"schemaVersion":2,"manifests":{}}"#] {
        with_entry(Some(wrong.as_bytes()), &target("new"), &label(None, None)).unwrap_err();
    }
}

#[test]
fn chosen_by_name_digest_or_platform() {
    let machine: Platform = "linux/arm64".parse().unwrap();
    let mut one = target("one");
    one.annotations.insert(REF_NAME.into(), "v1".into());
    one.annotations
        .insert(IMAGE_NAME.into(), "docker.io/library/app:v1".into());
    let mut two = target("two");
    two.annotations
        .insert(REF_NAME.into(), "example.org/app:v2".into());
    let both = [one.clone(), two.clone()];
    let pick = |name: Option<&str>| choose(&both, name, &machine).map(|entry| entry.digest.clone());
    assert_eq!(pick(Some("v1")).unwrap(), one.digest);
    assert_eq!(pick(Some("app:v1")).unwrap(), one.digest);
    assert_eq!(pick(Some("example.org/app:v2")).unwrap(), two.digest);
    assert_eq!(pick(Some(&format!("@{}", two.digest))).unwrap(), two.digest);
    let error = pick(Some("v2")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    let error = pick(None).unwrap_err().to_string();
    assert!(
        error.contains("docker.io/library/app:v1, example.org/app:v2"),
        "{error}"
    );
    choose(&[], None, &machine).unwrap_err();
    assert_eq!(
        choose(&both[..1], None, &machine).unwrap().digest,
        one.digest
    );
    // One name for several machines.
    let mut arm = one.clone();
    arm.digest = Digest::of(b"arm");
    arm.platform = Some(machine.clone());
    one.platform = Some("linux/amd64".parse().unwrap());
    let several = [one, arm.clone()];
    assert_eq!(
        choose(&several, Some("v1"), &machine).unwrap().digest,
        arm.digest
    );
    // A tag alone is no name.
    let mut tag = target("tag");
    tag.annotations.insert(REF_NAME.into(), "latest".into());
    assert!(names(&tag).is_empty());
    assert_eq!(names(&two)[0].to_string(), "example.org/app:v2");
}

#[test]
fn only_the_known_version() {
    check_mark(&mark()).unwrap();
    for (text, kind) in [
        (r#"{"imageLayoutVersion":"1.0.1"}"#, ErrorKind::Unsupported),
        (r#"{"imageLayoutVersion":1}"#, ErrorKind::InvalidInput),
        ("{}", ErrorKind::InvalidInput),
        (
            r#"{"imageLayoutVersion":"1.0.0","imagelayoutversion":"2"}"#,
            ErrorKind::InvalidInput,
        ),
        ("", ErrorKind::InvalidInput),
    ] {
        assert_eq!(
            check_mark(text.as_bytes()).unwrap_err().kind(),
            kind,
            "{text}"
        );
    }
}
