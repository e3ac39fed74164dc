//! Plugins that are started: this very program, by a script, so that they are real processes.

#![allow(clippy::unwrap_used, reason = "a test")]

mod plugin;

use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use plugin::*;
use prost::Message;
use rcrun_nri::proto::v1alpha1::*;
use tokio::time::timeout;

/// Makes a program that runs the test [`child`] as the plugin, with its socket as standard input, which is one that
/// can be had without `unsafe`. It says beside itself what it was given.
fn install(directory: &Path, name: &str, what: &str) {
    let me = std::env::current_exe().unwrap();
    let path = directory.join("plugins").join(name);
    let _ = std::fs::create_dir(directory.join("plugins"));
    let script = format!(
        "#!/bin/sh\n\
         exec 2>'{directory}/{name}.errors'\n\
         [ -S /proc/self/fd/3 ] || exit 9\n\
         tr '\\0' '\\n' </proc/$$/environ | sort >'{directory}/{name}.env'\n\
         ls -l /proc/$$/fd >'{directory}/{name}.fds'\n\
         pwd >'{directory}/{name}.pwd'\n\
         echo $$ >'{directory}/{name}.pid'\n\
         export NRI_TEST_CHILD={what} NRI_TEST_PLACE='{directory}/{name}.config'\n\
         exec '{me}' child --exact --nocapture 0<&3 3<&- >/dev/null\n",
        directory = directory.display(),
        me = me.display(),
    );
    std::fs::write(&path, script).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Not a test but the plugin, where the variable says so.
#[tokio::test]
async fn child() {
    let Ok(what) = std::env::var("NRI_TEST_CHILD") else {
        return;
    };
    if what == "silent" {
        return tokio::time::sleep(PATIENCE * 10).await;
    }
    let socket = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true).unwrap();
    let mut wire = Wire::new(tokio::net::UnixStream::from_std(socket).unwrap());
    register(&mut wire, "ignored", "/ignored/").await;
    let name = std::env::var("NRI_PLUGIN_NAME").unwrap();
    let stays = what == "stays";
    let handler = move |method: &str, _: &[u8]| match method {
        "CreateContainer" => answer(&CreateContainerResponse {
            adjust: Some(ContainerAdjustment {
                annotations: [(name.clone(), String::new())].into(),
                ..ContainerAdjustment::default()
            }),
            ..CreateContainerResponse::default()
        }),
        "StartContainer" => Reply::Die,
        "Synchronize" => answer(&SynchronizeResponse {
            update: vec![update(&name, memory(1))],
            more: false,
        }),
        _ => nothing(),
    };
    let mut plugin = Plugin::serve(wire, &[], handler);
    let told = ConfigureRequest::decode(&*plugin.hear("Configure").await).unwrap();
    let place = std::env::var("NRI_TEST_PLACE").unwrap();
    std::fs::write(format!("{place}.new"), told.config).unwrap();
    std::fs::rename(format!("{place}.new"), place).unwrap();
    plugin.task.await.unwrap();
    if stays {
        // Its connection is gone, and it does not care.
        tokio::time::sleep(PATIENCE * 10).await;
    }
}

fn said(lab: &Lab, name: &str) -> String {
    std::fs::read_to_string(lab.dir.path().join(name)).unwrap()
}

/// What a plugin says about its configuration, which it may do after it has joined.
async fn configuration(lab: &Lab, name: &str) -> String {
    let path = lab.dir.path().join(format!("{name}.config"));
    let written = async {
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, written).await.expect("a configuration");
    std::fs::read_to_string(path).unwrap()
}

/// Waits until a process that was started has gone, also as a child of ours.
async fn gone(directory: &Path, name: &str) {
    let pid = std::fs::read_to_string(directory.join(format!("{name}.pid"))).unwrap();
    let path = format!("/proc/{}", pid.trim());
    let gone = async {
        while Path::new(&path).exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(PATIENCE, gone).await.expect("the process to end");
}

async fn lab(plugins: &[(&str, &str)], registration: Duration) -> Lab {
    let plugins: Vec<(String, String)> = plugins
        .iter()
        .map(|(name, what)| ((*name).to_owned(), (*what).to_owned()))
        .collect();
    Lab::with(move |settings| {
        let directory = settings.plugins.parent().unwrap();
        for (name, what) in plugins {
            install(directory, &name, &what);
        }
        let _ = std::fs::create_dir(&settings.configurations);
        std::fs::write(settings.configurations.join("one.conf"), "key: value\n").unwrap();
        settings.registration_time = registration;
    })
    .await
}

#[tokio::test]
async fn installed_plugins_are_there_when_it_has_started() {
    let lab = lab(&[("20-two", "ends"), ("10-one", "ends")], PATIENCE).await;
    assert_eq!(lab.nri.plugins(), ["10-one", "20-two"]);
    let env = said(&lab, "10-one.env");
    let lines: Vec<_> = env
        .lines()
        .filter(|line| !line.starts_with("PWD="))
        .collect();
    assert_eq!(
        lines,
        [
            "NRI_PLUGIN_IDX=10",
            "NRI_PLUGIN_NAME=one",
            "NRI_PLUGIN_SOCKET=3"
        ]
    );
    assert_eq!(said(&lab, "10-one.pwd"), "/\n");
    assert_eq!(configuration(&lab, "10-one").await, "key: value\n");
    assert_eq!(configuration(&lab, "20-two").await, "");
    let fds = said(&lab, "10-one.fds");
    let sockets = fds.lines().filter(|line| line.contains("socket:")).count();
    assert_eq!(sockets, 1, "{fds}");
    assert_eq!(
        *lab.memory.updates.lock().unwrap(),
        [update("one", memory(1)), update("two", memory(1))]
    );
    let operation = lab.nri.operation().await;
    let created = operation
        .create_container(&pod("p"), &container("c"))
        .await
        .unwrap();
    let names: Vec<_> = created.adjust.annotations.keys().collect();
    assert_eq!(names, ["one", "two"]);
    // Both end in the middle of this, and are forgotten.
    operation
        .start_container(&pod("p"), &container("c"))
        .await
        .unwrap();
    drop(operation);
    lab.plugins(&[]).await;
    gone(lab.dir.path(), "10-one").await;
    gone(lab.dir.path(), "20-two").await;
}

#[tokio::test]
async fn one_that_cannot_be_started_is_left_out() {
    let plugins = [("10-silent", "silent"), ("20-good", "ends")];
    let lab = lab(&plugins, Duration::from_secs(3)).await;
    assert_eq!(lab.nri.plugins(), ["20-good"]);
    gone(lab.dir.path(), "10-silent").await;
    let directory = lab.dir.path().to_owned();
    // No program at all.
    std::fs::write(directory.join("plugins/30-broken"), [0; 64]).unwrap();
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.join("plugins/30-broken"), mode).unwrap();
    let runtime: std::sync::Arc<dyn rcrun_nri::Runtime> = lab.memory.clone();
    let settings = rcrun_nri::Settings {
        plugins: directory.join("plugins"),
        configurations: directory.join("conf.d"),
        registration_time: Duration::from_secs(3),
        ..rcrun_nri::Settings::default()
    };
    let second = rcrun_nri::Nri::start(settings, runtime, None)
        .await
        .unwrap();
    assert_eq!(second.plugins(), ["20-good"]);
    second.stop().await;
}

#[tokio::test]
async fn those_that_were_started_end_with_us() {
    let lab = lab(&[("10-ends", "ends"), ("20-stays", "stays")], PATIENCE).await;
    assert_eq!(lab.nri.plugins(), ["10-ends", "20-stays"]);
    let Lab { dir, nri, .. } = lab;
    nri.stop().await;
    gone(dir.path(), "10-ends").await;
    gone(dir.path(), "20-stays").await;
}
