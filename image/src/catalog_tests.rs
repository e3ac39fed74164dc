use super::*;
use crate::document::media;
use rcrun_overlay::lease::Lease;
use serde_json::json;

struct Shelf {
    _directory: tempfile::TempDir,
    store: Store,
    lease: Lease,
}

impl Shelf {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let lease = store.lease().unwrap();
        Self {
            _directory: directory,
            store,
            lease,
        }
    }

    fn put(&self, value: &serde_json::Value) -> (Digest, usize) {
        let text = value.to_string();
        let digest = self.store.content().put(&self.lease, text.as_bytes());
        (digest.unwrap(), text.len())
    }

    /// A manifest for an architecture, told apart by `author`.
    fn manifest(&self, architecture: &str, author: &str) -> Descriptor {
        let (config, size) = self.put(&json!({
            "architecture": architecture, "os": "linux", "author": author,
            "rootfs": {"type": "layers", "diff_ids": []},
        }));
        let (digest, length) = self.put(&json!({
            "schemaVersion": 2, "mediaType": media::OCI_MANIFEST, "layers": [],
            "config": {"mediaType": media::OCI_CONFIG, "digest": config, "size": size},
        }));
        descriptor(media::OCI_MANIFEST, &digest, length)
    }

    fn index(&self, entries: &[Descriptor]) -> Descriptor {
        let (digest, length) = self.put(&json!({
            "schemaVersion": 2, "mediaType": media::OCI_INDEX, "manifests": entries,
        }));
        descriptor(media::OCI_INDEX, &digest, length)
    }

    fn name(&self, name: &str, target: &Descriptor) {
        let names = Names::new(&self.store).unwrap();
        names
            .set(&self.lease, &name.parse().unwrap(), target)
            .unwrap();
    }

    fn catalog(&self) -> Catalog {
        Catalog::read(&self.store, &[], &amd64()).unwrap()
    }
}

fn amd64() -> Platform {
    Platform::new("linux", "amd64", "")
}

fn descriptor(media_type: &str, digest: &Digest, size: usize) -> Descriptor {
    let value = json!({"mediaType": media_type, "digest": digest, "size": size});
    serde_json::from_value(value).unwrap()
}

/// The author of what is meant, with `name` before it if a name was.
fn meant(catalog: &Catalog, text: &str) -> String {
    match catalog.find(text) {
        Ok(Meant::Name(_, Some(listed))) => {
            format!("name {}", listed.image.config.author.clone().unwrap())
        }
        Ok(Meant::Name(_, None)) => "name".to_owned(),
        Ok(Meant::Image(listed)) => listed.image.config.author.clone().unwrap(),
        Err(error) => error.to_string(),
    }
}

#[test]
fn what_people_type() {
    let shelf = Shelf::new();
    let (one, two) = (
        shelf.manifest("amd64", "one"),
        shelf.manifest("arm64", "two"),
    );
    let index = shelf.index(&[two.clone(), one.clone()]);
    shelf.name("debian:12", &index);
    shelf.name("example.org/app", &one);
    let three = shelf.manifest("amd64", "three");
    shelf.name(&format!("app@{}", three.digest), &three);
    let catalog = shelf.catalog();
    assert_eq!(catalog.images.len(), 3);
    let id = |author: &str| {
        let of = |listed: &&Listed| listed.image.config.author.as_deref() == Some(author);
        catalog.images.iter().find(of).unwrap().image.id.clone()
    };
    for (text, expected) in [
        ("debian:12".to_owned(), "name one"),
        ("docker.io/library/debian:12".to_owned(), "name one"),
        ("example.org/app:latest".to_owned(), "name one"),
        (format!("app@{}", three.digest), "name three"),
        (format!("debian@{}", index.digest), "one"),
        (format!("debian:9@{}", two.digest), "two"),
        (format!("debian@{}", three.digest), "no such image"),
        (id("two").to_string(), "two"),
        (id("two").hex().to_owned(), "two"),
        (id("two").hex()[..12].to_owned(), "two"),
        (format!("sha256:{}", &id("two").hex()[..12]), "two"),
        (one.digest.to_string(), "one"),
        (index.digest.to_string(), "one"),
        (Digest::of(b"other").to_string(), "no such image"),
        ("debian".to_owned(), "no such image: debian"),
        ("DEBIAN".to_owned(), "invalid image reference"),
        ("zz".to_owned(), "no such image: zz"),
    ] {
        let found = meant(&catalog, &text);
        assert!(found.starts_with(expected), "{text}: {found}");
    }
    // Which of an index's images its name means here.
    let meant = |author| {
        let id = id(author);
        catalog
            .images
            .iter()
            .find(|one| one.image.id == id)
            .unwrap()
            .meant
    };
    assert!(meant("one") && !meant("two"));
}

#[test]
fn beginnings_must_be_unique() {
    let shelf = Shelf::new();
    let mut ids = Vec::new();
    // Among so many, two begin with the same three digits; which ones never changes.
    for number in 0..120 {
        let author = number.to_string();
        let manifest = shelf.manifest("amd64", &author);
        shelf.name(&format!("app:{number}"), &manifest);
    }
    let catalog = shelf.catalog();
    ids.extend(
        catalog
            .images
            .iter()
            .map(|one| one.image.id.hex().to_owned()),
    );
    ids.sort_unstable();
    let twin = ids.windows(2).find(|two| two[0][..3] == two[1][..3]);
    let twin = twin.unwrap()[0][..3].to_owned();
    let error = catalog.find(&twin).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
    assert!(
        error.to_string().contains("beginning of 2 images"),
        "{error}"
    );
    assert!(matches!(catalog.find(&ids[0][..20]), Ok(Meant::Image(_))));
}

#[test]
fn a_name_without_its_image_is_told_and_can_still_be_found() {
    let shelf = Shelf::new();
    let one = shelf.manifest("amd64", "one");
    shelf.name("good", &one);
    shelf.name(
        "bad",
        &descriptor(media::OCI_MANIFEST, &Digest::of(b"gone"), 4),
    );
    let catalog = shelf.catalog();
    assert_eq!(catalog.images.len(), 1);
    assert_eq!(catalog.broken.len(), 1);
    assert_eq!(meant(&catalog, "bad"), "name");
    assert!(named(&shelf.store, &"bad".parse().unwrap(), &amd64()).is_err());
}

#[test]
fn a_name_for_another_platform_is_not_taken_for_this_one() {
    let shelf = Shelf::new();
    let arm = shelf.manifest("arm64", "arm");
    shelf.name("app", &arm);
    let name: Reference = "app".parse().unwrap();
    let error = named(&shelf.store, &name, &amd64()).unwrap_err();
    assert!(
        error.to_string().contains("there is linux/arm64"),
        "{error}"
    );
    assert!(
        error
            .hint()
            .unwrap()
            .contains("pull --platform linux/amd64 app")
    );
    let found = named(&shelf.store, &name, &Platform::new("linux", "arm64", ""));
    assert!(found.unwrap().is_some());
    let none = named(&shelf.store, &"other".parse().unwrap(), &amd64());
    assert!(none.unwrap().is_none());
    // Whoever uses a manifest that has no name keeps it in the list.
    Names::new(&shelf.store).unwrap().remove(&name).unwrap();
    assert!(shelf.catalog().images.is_empty());
    let used = Catalog::read(&shelf.store, &[arm.digest], &amd64()).unwrap();
    assert!(used.images[0].meant && used.images[0].names.is_empty());
}
