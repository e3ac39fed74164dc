//! Against OpenSSH: it makes keys, and judges what is signed with them.

use std::process::Command;

use super::*;

/// Runs a program; none if it is missing.
fn run(directory: &Path, words: &[&str]) -> Option<String> {
    let (program, words) = words.split_first()?;
    let done = Command::new(program)
        .args(words)
        .current_dir(directory)
        .stdin(std::process::Stdio::null())
        .output()
        .ok()?;
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success(), "{program} {words:?}: {said}");
    Some(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn make(directory: &Path, name: &str, words: &[&str]) -> Option<()> {
    let all = [&["ssh-keygen", "-q", "-C", "whose", "-f", name], words].concat();
    run(directory, &all).map(drop)
}

fn load(directory: &Path, name: &str) -> Result<Vec<Key>> {
    let path = directory.join(name);
    read(&std::fs::read(&path).unwrap(), &path)
}

/// A signature as `ssh-keygen -Y sign` writes it (PROTOCOL.sshsig), made with this key.
fn sshsig(key: &Key, text: &[u8], flags: u32) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA512, text);
    let mut data = b"SSHSIG".to_vec();
    for part in [&b"test"[..], b"", b"sha512", digest.as_ref()] {
        put(&mut data, part);
    }
    let mut blob = b"SSHSIG".to_vec();
    blob.extend(1_u32.to_be_bytes());
    put(&mut blob, key.public());
    for part in [&b"test"[..], b"", b"sha512"] {
        put(&mut blob, part);
    }
    put(&mut blob, &key.sign(&data, flags).unwrap());
    let text = STANDARD.encode(blob);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(70)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    format!(
        "-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n",
        lines.join("\n")
    )
}

#[test]
fn openssh_believes_what_is_signed() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (name, words) in [
        ("ed25519", &["-t", "ed25519", "-N", ""][..]),
        ("rsa", &["-t", "rsa", "-b", "2048", "-N", ""]),
        ("rsa3", &["-t", "rsa", "-b", "3072", "-N", ""]),
        ("p256", &["-t", "ecdsa", "-b", "256", "-N", ""]),
        ("p384", &["-t", "ecdsa", "-b", "384", "-N", ""]),
        (
            "rsa-pem",
            &["-t", "rsa", "-b", "2048", "-N", "", "-m", "PEM"],
        ),
        (
            "rsa-pkcs8",
            &["-t", "rsa", "-b", "2048", "-N", "", "-m", "PKCS8"],
        ),
        (
            "p256-pem",
            &["-t", "ecdsa", "-b", "256", "-N", "", "-m", "PEM"],
        ),
        (
            "p384-pem",
            &["-t", "ecdsa", "-b", "384", "-N", "", "-m", "PEM"],
        ),
        (
            "p256-pkcs8",
            &["-t", "ecdsa", "-b", "256", "-N", "", "-m", "PKCS8"],
        ),
    ] {
        if make(at, name, words).is_none() {
            println!("skipped: no ssh-keygen");
            return;
        }
        let keys = load(at, name).unwrap_or_else(|error| panic!("{name}: {}", error.chain()));
        let [key] = keys.as_slice() else {
            panic!("{name}: {} keys", keys.len());
        };
        let public = std::fs::read_to_string(at.join(format!("{name}.pub"))).unwrap();
        let mut fields = public.split_whitespace();
        let blob = STANDARD.decode(fields.nth(1).unwrap()).unwrap();
        assert_eq!(key.public(), blob, "{name}");
        let own = name
            .contains('-')
            .then(|| at.join(name).display().to_string());
        assert_eq!(key.comment(), own.as_deref().unwrap_or("whose"));
        std::fs::write(at.join("allowed"), format!("me {public}")).unwrap();
        std::fs::write(at.join("text"), "some text").unwrap();
        for flags in [SHA256, SHA512] {
            std::fs::write(at.join("signature"), sshsig(key, b"some text", flags)).unwrap();
            let verify = "ssh-keygen -Y verify -f allowed -I me -n test -s signature <text";
            let said = run(at, &["sh", "-c", verify]).unwrap();
            assert!(said.contains("Good"), "{name}: {said}");
        }
        // SHA-1.
        if name.starts_with("rsa") {
            assert!(key.sign(b"x", 0).is_none());
        }
    }
}

#[test]
fn keys_that_cannot_be_used_are_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let at = directory.path();
    for (name, words, says) in [
        (
            "locked",
            &["-t", "ed25519", "-N", "secret"][..],
            "encrypted",
        ),
        (
            "locked-pem",
            &["-t", "rsa", "-b", "2048", "-N", "secret", "-m", "PEM"],
            "encrypted",
        ),
        (
            "locked-pkcs8",
            &["-t", "rsa", "-b", "2048", "-N", "secret", "-m", "PKCS8"],
            "encrypted",
        ),
        (
            "p521",
            &["-t", "ecdsa", "-b", "521", "-N", ""],
            "ecdsa-sha2-nistp521",
        ),
        ("small", &["-t", "rsa", "-b", "1024", "-N", ""], "TooSmall"),
    ] {
        if make(at, name, words).is_none() {
            println!("skipped: no ssh-keygen");
            return;
        }
        let error = load(at, name).unwrap_err();
        assert!(
            error.chain().to_string().contains(says),
            "{name}: {}",
            error.chain()
        );
        assert!(error.hint().is_some_and(|hint| hint.contains("ssh-add")));
    }
    std::fs::write(at.join("text"), "no key").unwrap();
    assert!(
        load(at, "text")
            .unwrap_err()
            .chain()
            .to_string()
            .contains("neither")
    );
    // Whatever is cut off or changed is refused or used, and never a panic.
    if make(at, "whole", &["-t", "ed25519", "-N", ""]).is_some() {
        let text = std::fs::read(at.join("whole")).unwrap();
        for end in 0..text.len() {
            let _ = read(&text[..end], Path::new("x"));
            let mut changed = text.clone();
            changed[end] = changed[end].wrapping_add(1);
            let _ = read(&changed, Path::new("x"));
        }
        let (_, _, bytes) = pem(&text).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = openssh(&changed, "x");
            }
            openssh(&bytes[..at], "x").unwrap_err();
        }
    }
    if make(at, "sec1", &["-t", "ecdsa", "-N", "", "-m", "PEM"]).is_some() {
        let (_, _, bytes) = pem(&std::fs::read(at.join("sec1")).unwrap()).unwrap();
        sec1(&bytes).unwrap();
        for at in 0..bytes.len() {
            for value in [0, 1, 0x7f, 0x80, 0x84, 0xff] {
                let mut changed = bytes.clone();
                changed[at] = value;
                let _ = sec1(&changed);
            }
            assert!(sec1(&bytes[..at]).is_err());
        }
    }
}
