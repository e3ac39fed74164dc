use std::os::unix::fs::PermissionsExt;

use super::*;

fn basic(user: &str, password: &str) -> Credential {
    Credential::Basic {
        user: user.into(),
        password: Secret::new(password),
    }
}

fn docker(directory: &Path) -> Credentials {
    let directory = directory.to_str().unwrap().to_owned();
    Credentials::new(|name| (name == "DOCKER_CONFIG").then(|| directory.clone()))
}

fn with_file(text: &str) -> (tempfile::TempDir, Credentials) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("config.json"), text).unwrap();
    let credentials = docker(directory.path());
    (directory, credentials)
}

#[test]
fn found_by_the_most_specific_key() {
    let encoded = |text: &str| BASE64_STANDARD.encode(text);
    let (_directory, credentials) = with_file(&format!(
        r#"{{"auths":{{"reg.lan":{{"auth":"{}"}},"reg.lan/a/b":{{"auth":"{}"}},
        "https://old.lan/v1/":{{"username":"u","password":"p"}},
        "https://index.docker.io/v1/":{{"auth":"{}","identitytoken":"idt"}},
        "tok.lan":{{"registrytoken":"rt"}},"empty.lan":{{}}}}}}"#,
        encoded("u:p:with:colons"),
        encoded("v:q"),
        encoded("hub:"),
    ));
    let find = |host, repository| credentials.find(host, repository).unwrap();
    assert_eq!(find("reg.lan", "x"), Some(basic("u", "p:with:colons")));
    assert_eq!(find("reg.lan", "a/b"), Some(basic("v", "q")));
    assert_eq!(find("reg.lan", "a/b/c"), Some(basic("v", "q")));
    assert_eq!(find("reg.lan", "a/bc"), Some(basic("u", "p:with:colons")));
    assert_eq!(find("old.lan", ""), Some(basic("u", "p")));
    let identity = Credential::Identity {
        user: "hub".into(),
        token: Secret::new("idt"),
    };
    assert_eq!(find("docker.io", "library/x"), Some(identity));
    assert_eq!(
        find("tok.lan", ""),
        Some(Credential::Registry {
            token: Secret::new("rt")
        })
    );
    for unknown in [
        "empty.lan",
        "other.lan",
        "reg.lan:5000",
        "reg.lan.evil",
        "lan",
    ] {
        assert_eq!(find(unknown, "a/b"), None, "{unknown}");
    }
}

#[test]
fn order_of_files() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name).to_str().unwrap().to_owned();
    for (name, user) in [
        ("run/containers/auth.json", "podman"),
        ("home/.docker/config.json", "docker"),
        ("own.json", "own"),
    ] {
        let file = PathBuf::from(path(name));
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = format!(r#"{{"auths":{{"h":{{"username":"{user}","password":"p"}}}}}}"#);
        std::fs::write(file, text).unwrap();
    }
    let user = |names: &[(&str, &str)]| {
        let credentials = Credentials::new(|name| {
            names
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| path(value))
        });
        match credentials.find("h", "x").unwrap() {
            Some(Credential::Basic { user, .. }) => user,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(user(&[("HOME", "home")]), "docker");
    assert_eq!(
        user(&[("HOME", "home"), ("XDG_RUNTIME_DIR", "run")]),
        "podman"
    );
    assert_eq!(
        user(&[
            ("HOME", "home"),
            ("XDG_RUNTIME_DIR", "run"),
            ("REGISTRY_AUTH_FILE", "own.json")
        ]),
        "own"
    );
}

#[test]
fn stored_atomically_privately_and_beside_what_is_unknown() {
    let (directory, credentials) =
        with_file(r#"{"HttpHeaders":{"X":"y"},"auths":{"a":{"email":"e"}}}"#);
    credentials.store("reg.lan:5000", &basic("u", "p")).unwrap();
    credentials
        .store(
            "docker.io",
            &Credential::Identity {
                user: "h".into(),
                token: Secret::new("t"),
            },
        )
        .unwrap();
    assert_eq!(
        credentials.find("reg.lan:5000", "x").unwrap(),
        Some(basic("u", "p"))
    );
    let file = directory.path().join("config.json");
    let value: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    assert_eq!(value["HttpHeaders"]["X"], "y");
    assert_eq!(value["auths"]["a"]["email"], "e");
    assert_eq!(value["auths"][DEFAULT_KEY]["identitytoken"], "t");
    assert_eq!(
        std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
        0o600
    );
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
    assert!(credentials.erase("reg.lan:5000").unwrap());
    assert!(!credentials.erase("reg.lan:5000").unwrap());
    assert_eq!(credentials.find("reg.lan:5000", "x").unwrap(), None);
    assert!(credentials.find("docker.io", "x").unwrap().is_some());
}

#[test]
fn a_damaged_file_is_named_and_not_overwritten() {
    let (directory, credentials) = with_file(r#"{"auths": hidden-text"#);
    let file = directory.path().join("config.json");
    for error in [
        credentials.find("a", "b").unwrap_err(),
        credentials.store("a", &basic("u", "p")).unwrap_err(),
    ] {
        let text = error.chain().to_string();
        assert!(
            text.contains(file.to_str().unwrap()) && !text.contains("hidden"),
            "{text}"
        );
    }
    assert!(
        std::fs::read_to_string(&file)
            .unwrap()
            .contains("hidden-text")
    );
    let (_directory, credentials) = with_file(r#"{"auths":{"a":{"auth":"!!"}}}"#);
    assert!(
        credentials
            .find("a", "b")
            .unwrap_err()
            .chain()
            .to_string()
            .contains("base64")
    );
    Credentials::none()
        .store("a", &basic("u", "p"))
        .unwrap_err();
}

#[test]
fn eight_logins_at_once_all_count() {
    let directory = tempfile::tempdir().unwrap();
    let credentials = docker(&directory.path().join("new"));
    std::thread::scope(|scope| {
        for n in 0..8 {
            let credentials = &credentials;
            scope.spawn(move || {
                credentials
                    .store(&format!("h{n}"), &basic("u", "p"))
                    .unwrap();
            });
        }
    });
    for n in 0..8 {
        assert!(
            credentials.find(&format!("h{n}"), "").unwrap().is_some(),
            "{n}"
        );
    }
}

/// Credentials whose file names a helper that is this script.
fn with_helper(file: &str, script: &str) -> (tempfile::TempDir, Credentials) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("docker-credential-kept");
    std::fs::write(
        &path,
        format!("#!/bin/sh\ncd {}\n{script}\n", directory.path().display()),
    )
    .unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(directory.path().join("config.json"), file).unwrap();
    let own = directory.path().to_str().unwrap().to_owned();
    let credentials = Credentials::new(|name| match name {
        "DOCKER_CONFIG" => Some(own.clone()),
        "PATH" => Some(format!("{own}:/usr/bin:/bin")),
        _ => None,
    });
    (directory, credentials)
}

const KEEPER: &str = r#"
case $1 in
store) cat > kept ;;
get) if [ -e kept ]; then cat kept; else echo "credentials not found in native keychain"; exit 1; fi ;;
erase) rm kept ;;
esac"#;

#[test]
fn a_helper_keeps_the_secret_and_the_file_does_not() {
    for file in [
        r#"{"credsStore":"kept"}"#,
        r#"{"credHelpers":{"h":"kept"}}"#,
    ] {
        let (directory, credentials) = with_helper(file, KEEPER);
        assert_eq!(credentials.find("h", "x").unwrap(), None);
        for credential in [
            basic("u", "hidden-text"),
            Credential::Identity {
                user: String::new(),
                token: Secret::new("hidden-text"),
            },
        ] {
            credentials.store("h", &credential).unwrap();
            assert_eq!(credentials.find("h", "x").unwrap(), Some(credential));
        }
        let text = std::fs::read_to_string(directory.path().join("config.json")).unwrap();
        assert!(
            !text.contains("hidden-text") && text.contains("\"h\": {}"),
            "{text}"
        );
        assert!(credentials.erase("h").unwrap());
        assert_eq!(credentials.find("h", "x").unwrap(), None);
    }
}

#[test]
fn helpers_that_fail() {
    let file = r#"{"credHelpers":{"h":"kept"}}"#;
    for (script, words) in [
        (
            "echo locked; exit 1",
            "credential helper kept cannot get: locked",
        ),
        ("echo '{hidden-text'", "answers nonsense"),
        ("sleep 100 & sleep 100", "no answer in"),
        ("yes", "too long"),
    ] {
        let (_directory, credentials) = with_helper(file, script);
        let credentials = credentials.with_deadline(Duration::from_secs(2));
        let began = std::time::Instant::now();
        let error = credentials.find("h", "x").unwrap_err().chain().to_string();
        assert!(
            error.contains(words) && !error.contains("hidden"),
            "{error}"
        );
        assert!(began.elapsed() < Duration::from_secs(30));
    }
}

#[test]
fn helpers_that_are_none() {
    for name in ["../x", "a/b", "a b", "$(x)"] {
        let (_directory, credentials) =
            with_file(&format!(r#"{{"credHelpers":{{"h":"{name}"}}}}"#));
        let error = credentials.find("h", "x").unwrap_err().chain().to_string();
        assert!(error.contains("invalid credential helper"), "{error}");
    }
    let (_directory, credentials) = with_file(
        r#"{"credsStore":"surely-not-installed","auths":{"h":{"username":"u","password":"p"}}}"#,
    );
    assert_eq!(credentials.find("h", "x").unwrap(), Some(basic("u", "p")));
    let (_directory, credentials) = with_file(r#"{"credHelpers":{"h":"surely-not-installed"}}"#);
    let error = credentials.find("h", "x").unwrap_err().chain().to_string();
    assert!(
        error.contains("docker-credential-surely-not-installed"),
        "{error}"
    );
}
