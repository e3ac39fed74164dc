//! Attacks by what builds fetch and by where they write; numbers are those of group E of the project's list of known vulnerabilities (builders).

use super::attacks::{CANARY, assert_clean, canary};
use super::contexts::{files_of, git};
use super::copy_sources::archive;
use crate::harness::builds::Builds;
use crate::harness::{Env, Need, Test, test};
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(e7_git_contexts_stay_inside).needs(Need::Program("git")),
        test!(e8_names_that_servers_choose).needs(Need::Program("gzip")),
        test!(e9_destinations_stay_inside),
        test!(e10_secrets_are_nowhere),
        test!(e11_steps_see_only_their_stage),
    ]
}

fn e7_git_contexts_stay_inside(env: &Env) {
    let builds = Builds::new(env);
    let path = canary(env);
    let host = path.parent().unwrap();
    let repository = builds.context(&[
        ("Dockerfile", "FROM base\nCOPY . /all\n"),
        ("sub/Dockerfile", "FROM base\nCOPY . /all\n"),
        ("sub/f", "inside"),
    ]);
    symlink(host, repository.join("out")).unwrap();
    symlink(&path, repository.join("file")).unwrap();
    git(&repository, &["init"]);
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "-m", "x"]);
    git(&repository, &["update-server-info"]);
    let url = format!("{}/.git", files_of(&repository));
    let plain = builds
        .build(&[], Path::new(&format!("{url}#main:sub")))
        .ok();
    assert_eq!(plain.files().line("all/f"), "f 644 0:0 inside");
    for reference in [
        "main:../..",
        "main:/../../",
        "main:out",
        "main:sub/../../..",
        "--upload-pack=touch${IFS}x",
        "-x",
        "main:--x",
        "../../x",
        "main:sub/../out",
        "refs/heads/main;x",
        ":../",
    ] {
        let built = builds.build(&[], Path::new(&format!("{url}#{reference}")));
        if built.output.code == 0 {
            assert_clean(&built);
        }
        assert!(
            !built.output.stderr.contains(CANARY),
            "{reference}\n{}",
            built.output
        );
    }
    for address in [
        "git://-oProxyCommand=touch/x",
        &format!("file://{}/.git", repository.display()),
        "ext::sh -c touch% x",
        "ssh://-oProxyCommand=touch x/y.git",
        "-u.git",
    ] {
        let built = builds.build(&[], Path::new(address));
        assert_ne!(built.output.code, 0, "{address}");
    }
    for address in [
        format!("{url}#main:../.."),
        format!("{url}#--upload-pack=x"),
    ] {
        let text = format!("FROM scratch\nADD {address} /all\n");
        let built = builds.build(&[], &builds.dockerfile(&text));
        if built.output.code == 0 {
            assert_clean(&built);
        }
    }
    assert!(!Path::new("x").exists());
}

/// A server that answers every request with these headers and this body.
fn serve(headers: String, body: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = vec![0; 8192];
            let length = stream.read(&mut request).unwrap_or(0);
            let head = request[..length].starts_with(b"HEAD");
            let length = body.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n{headers}\r\n"
            );
            if !head {
                let _ = stream.write_all(&body);
            }
        }
    });
    format!("http://{address}")
}

fn e8_names_that_servers_choose(env: &Env) {
    use tar::EntryType::{Link, Regular, Symlink};
    let builds = Builds::new(env);
    let path = canary(env);
    let host = path.parent().unwrap().to_str().unwrap().to_owned();
    for name in [
        "../../../evil",
        "/etc/evil",
        "..",
        "a/b",
        "",
        ".",
        "x\\..\\y",
        "\u{1}evil",
    ] {
        let url = serve(
            format!("Content-Disposition: attachment; filename=\"{name}\"\r\n"),
            b"content".to_vec(),
        );
        let text = format!("FROM base\nWORKDIR /w\nADD {url}/file /d/\n");
        let built = builds.build(&[], &builds.dockerfile(&text));
        if built.output.code == 0 {
            let files = built.files();
            let below = files.below("d");
            assert_eq!(below.len(), 1, "{name:?}: {below:?}");
            assert!(!below[0].contains('/'), "{name:?}: {below:?}");
            assert_eq!(files.line("etc/evil"), "-");
            assert_eq!(files.line("evil"), "-");
        }
    }
    // Archives as contexts: a link, and a file through it.
    let evil = archive(&[
        ("l", Symlink, &host),
        ("l/planted", Regular, CANARY),
        ("Dockerfile", Regular, "FROM base\nCOPY . /all\n"),
    ]);
    let linked = archive(&[
        ("Dockerfile", Regular, "FROM base\nCOPY . /all\n"),
        ("hard", Link, path.to_str().unwrap()),
    ]);
    let up = archive(&[("Dockerfile", Regular, "FROM base\nCOPY . /all\n")]);
    let up = String::from_utf8_lossy(&up).into_owned().into_bytes();
    let file = archive(&[("Dockerfile", Symlink, path.to_str().unwrap())]);
    for body in [evil, linked, up, file] {
        let url = serve("Content-Type: application/x-tar\r\n".to_owned(), body);
        let built = builds.build(&[], Path::new(&format!("{url}/context.tar")));
        if built.output.code == 0 {
            assert!(
                !built
                    .files()
                    .0
                    .values()
                    .any(|file| file.kind == 'f' && file.content == b"never")
            );
        }
        assert!(!Path::new(&host).join("planted").exists());
        let show = built.output.stderr.contains(CANARY);
        assert!(!show, "{}", built.output);
    }
    assert_eq!(fs::read_to_string(&path).unwrap(), CANARY);
}

fn e9_destinations_stay_inside(env: &Env) {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let builds = Builds::new(env);
    let path = canary(env);
    let host = path.parent().unwrap().to_str().unwrap().to_owned();
    let up = "../".repeat(20);
    let through = archive(&[
        ("abs", Symlink, &host),
        ("abs/planted", Regular, "1"),
        ("rel", Symlink, &format!("{up}{host}")),
        ("rel/planted2", Regular, "1"),
    ]);
    let hard = archive(&[
        ("d/", Directory, ""),
        ("hard", Link, path.to_str().unwrap()),
    ]);
    let context = builds.context(&[("f", "1")]);
    fs::write(context.join("through.tar"), through).unwrap();
    fs::write(context.join("hard.tar"), hard).unwrap();
    let dockerfile = format!(
        "FROM base\nRUN ln -s {host} /abs && ln -s {up}{host} /rel && ln -s /proc/1/root{host} /magic\nCOPY f /abs/f\nCOPY f /rel/g\nCOPY f {up}h\nCOPY f {up}etc/i\nADD --link f {up}j\nCOPY --link f /abs/k\nCOPY f /x/{up}y/l\nWORKDIR {up}w\nCOPY f {up}m\nADD through.tar /t/\n"
    );
    fs::write(context.join("Dockerfile"), dockerfile).unwrap();
    let built = builds.build(&[], &context).ok();
    let files = built.files();
    for path in ["h", "etc/i", "j", "y/l", "m"] {
        assert_eq!(files.line(path), "f 644 0:0 1", "{path}");
    }
    let left: Vec<_> = fs::read_dir(&host)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left, ["canary"]);
    for dockerfile in [
        "FROM base\nADD hard.tar /t/\n",
        "FROM base\nRUN ln -s /proc/1/root /magic\nCOPY f /magic/f\n",
    ] {
        fs::write(context.join("Dockerfile"), dockerfile).unwrap();
        let built = builds.build(&[], &context);
        if built.output.code == 0 {
            assert_clean(&built);
        }
    }
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
    assert!(!Path::new("/f").exists());
}

fn e10_secrets_are_nowhere(env: &Env) {
    let builds = Builds::new(env);
    let mut canaries = Vec::new();
    let mut secret = |name: &str| {
        let text = format!("{name}-7c21e9b04d");
        canaries.push(text.clone());
        text
    };
    fs::write(env.path("secret"), secret("file")).unwrap();
    builds.shelf.set("A_SECRET", &secret("variable"));
    let file = format!("--secret=id=f,src={}", env.path("secret").display());
    let proxy = format!(
        "--build-arg=HTTP_PROXY=http://u:{}@127.0.0.1:1/",
        secret("proxy")
    );
    let web = serve(String::new(), b"content".to_vec());
    let url = web.replace("http://", &format!("http://user:{}@", secret("password")));
    let dockerfile = "FROM base\nRUN --mount=type=secret,id=f wc -c < /run/secrets/f\nRUN --mount=type=secret,id=f,target=/etc/s --mount=type=secret,id=v,env=V test -n \"$V\" && test -s /etc/s\nRUN --mount=type=secret,id=v,target=/x/y/z true; false || true\n";
    let context = builds.dockerfile(dockerfile);
    let flags = [
        file.as_str(),
        "--secret=id=v,env=A_SECRET",
        &proxy,
        "--explain",
        "-t",
        "shown",
    ];
    let built = builds.build(&flags, &context);
    // Addresses with passwords are refused, not kept.
    let with_password = builds.dockerfile(&format!("FROM base\nADD {url}/f /f\n"));
    builds.build(&[], &with_password).fails("user name");
    // And where a step fails in between.
    let failing = builds.dockerfile("FROM base\nRUN --mount=type=secret,id=f --mount=type=secret,id=v,env=V cp /run/secrets/f /dev/null; false\n");
    let failed = builds.build(&flags, &failing).fails("exit code: 1");
    for text in &canaries {
        assert!(
            !built.output.stderr.contains(text),
            "{text}\n{}",
            built.output
        );
        assert!(
            !failed.output.stderr.contains(text),
            "{text}\n{}",
            failed.output
        );
        let found = Command::new("grep")
            .args(["-rlaF", "--", text])
            .arg(builds.shelf.path())
            .output();
        let found = String::from_utf8(found.unwrap().stdout).unwrap();
        assert_eq!(found, "", "{text}");
    }
    built.ok();
    let history = builds.shelf.ok(&["history", "--no-trunc", "shown"]);
    for text in canaries {
        assert!(!history.contains(text.as_str()), "{history}");
    }
}

fn e11_steps_see_only_their_stage(env: &Env) {
    let builds = Builds::new(env);
    builds.shelf.set("OF_THE_BUILDER", CANARY);
    let path = canary(env);
    let dockerfile = format!(
        "FROM base\nRUN ls -A / | sort > /tmp/root-list\nRUN env | cut -d= -f1 | sort > /env-list\nRUN cat /proc/1/environ /proc/self/environ /proc/1/cmdline /proc/self/mountinfo > /seen; ls -l /proc/1/fd /proc/self/fd >> /seen; true\nRUN cat {} >> /seen 2>&1; ps | wc -l > /ps; cat /proc/1/root{} >> /seen 2>&1; true\n",
        path.display(),
        path.display()
    );
    let built = builds.of(&[], &dockerfile, &[]);
    assert_clean(&built);
    let files = built.files();
    let expected = "bin\ndev\netc\nproc\nroot\nsys\ntmp\nvar\n";
    assert_eq!(files.text("tmp/root-list"), expected);
    let names = files.text("env-list");
    for name in names.lines() {
        let known = ["HOME", "PATH", "PWD", "SHLVL", "OLDPWD", "HOSTNAME", "_"];
        assert!(known.contains(&name), "{names}");
    }
    // The shell, ps and wc with the line of titles.
    assert!(files.text("ps").trim().parse::<u32>().unwrap() <= 5);
    assert!(!files.text("seen").contains("result.json"));
}
