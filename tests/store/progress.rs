//! Bars at a terminal.

use crate::harness::process::until;
use crate::harness::store::{Image, archive, noise};
use crate::harness::{Env, Shelf, Test, test};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rcrun_image::registry::testing::Fault;
use std::io::Read as _;
use std::sync::{Arc, Mutex};
use std::time::Duration;

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(bars_are_redrawn_in_place),
        test!(ctrl_c_at_a_terminal),
    ]
}

/// What a terminal of 80 columns got on standard error.
struct Screen {
    text: Arc<Mutex<Vec<u8>>>,
    slave: Option<std::os::fd::OwnedFd>,
    reader: Option<std::thread::JoinHandle<()>>,
}

impl Screen {
    fn new() -> Self {
        let size = nix::pty::Winsize {
            ws_row: 24,
            ws_col: 80,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = nix::pty::openpty(Some(&size), None).unwrap();
        let text = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&text);
        let reader = std::thread::spawn(move || {
            let mut master = std::fs::File::from(pty.master);
            let mut buffer = [0; 4096];
            while let Ok(count) = master.read(&mut buffer) {
                into.lock().unwrap().extend(&buffer[..count]);
            }
        });
        Self {
            text,
            slave: Some(pty.slave),
            reader: Some(reader),
        }
    }

    fn now(&self) -> String {
        String::from_utf8_lossy(&self.text.lock().unwrap()).into_owned()
    }

    /// All of it, when everybody has closed the terminal.
    fn end(mut self) -> String {
        self.slave = None;
        self.reader.take().unwrap().join().unwrap();
        self.now()
    }

    /// What a person sees at the end: control sequences carried out.
    fn picture(text: &str) -> Vec<String> {
        let mut lines: Vec<String> = vec![String::new()];
        let mut row = 0;
        let mut rest = text;
        while let Some(character) = rest.chars().next() {
            rest = &rest[character.len_utf8()..];
            match character {
                '\x1b' => {
                    let end = rest.find(|c: char| c.is_ascii_alphabetic()).unwrap();
                    let number = rest[1..end].parse::<usize>().unwrap_or(0);
                    match &rest[end..=end] {
                        "A" => row -= number,
                        "K" => lines[row].clear(),
                        "J" => {
                            lines.truncate(row + 1);
                            lines[row].clear();
                        }
                        other => panic!("unknown sequence {other}"),
                    }
                    rest = &rest[end + 1..];
                }
                '\n' => {
                    row += 1;
                    if row == lines.len() {
                        lines.push(String::new());
                    }
                }
                '\r' => {}
                other => lines[row].push(other),
            }
        }
        lines
    }
}

fn bars_are_redrawn_in_place(env: &Env) {
    let shelf = Shelf::new(env);
    let layers = [
        archive(&[("a", &noise(3 << 20, 1))]),
        archive(&[("b", &noise(10_000, 2))]),
    ];
    let image = shelf.publish("app:1", &Image::new(&layers));
    let slow = Fault::Slow(64 << 10, Duration::from_millis(25));
    shelf
        .registry
        .fault("GET", &image.layers[0].to_string(), 1, slow);
    let screen = Screen::new();
    let mut command = shelf.command(&["pull", &shelf.name("app:1")]);
    command.stderr(screen.slave.as_ref().unwrap().try_clone().unwrap());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let status = crate::harness::process::wait_for(&mut child, Duration::from_secs(20));
    assert!(status.unwrap().unwrap().success());
    drop(command);
    let text = screen.end();
    assert!(text.contains("MB/s"), "{text:?}");
    assert!(text.contains("=>"), "{text:?}");
    let picture = Screen::picture(&text);
    let short = |index: usize| image.layers[index].hex()[..12].to_owned();
    let full = "=".repeat(24);
    let expected = [
        format!("{}: 2 layers, 3.16MB", shelf.name("app:1")),
        format!("{} [{full}] 3.15MB  unpacked", short(0)),
        format!("{} [{full}] 11.8kB  unpacked", short(1)),
        "2 of 2 done, 3.16MB/3.16MB".to_owned(),
        format!("Digest: {}", image.manifest),
        format!("Status: Downloaded newer image for {}", shelf.name("app:1")),
        String::new(),
    ];
    assert_eq!(picture.len(), expected.len(), "{picture:#?}");
    for (line, expected) in picture.iter().zip(&expected) {
        assert!(line.starts_with(expected), "{line:?} is not {expected:?}");
    }
}

fn ctrl_c_at_a_terminal(env: &Env) {
    let shelf = Shelf::new(env);
    let image = shelf.publish("app:1", &Image::with_file("a", &noise(3 << 20, 1)));
    let slow = Fault::Slow(16 << 10, Duration::from_millis(25));
    shelf
        .registry
        .fault("GET", &image.layers[0].to_string(), 1, slow);
    let screen = Screen::new();
    let mut command = shelf.command(&["pull", &shelf.name("app:1")]);
    command.stderr(screen.slave.as_ref().unwrap().try_clone().unwrap());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    until("a rate is shown", 20, || {
        screen.now().contains("/s").then_some(())
    });
    kill(
        Pid::from_raw(i32::try_from(child.id()).unwrap()),
        Signal::SIGINT,
    )
    .unwrap();
    let status = crate::harness::process::wait_for(&mut child, Duration::from_secs(20));
    assert_eq!(status.unwrap().unwrap().code(), Some(130));
    drop(command);
    let picture = Screen::picture(&screen.end());
    // What was reached stays on the screen, and the next prompt stands below.
    let bar = &picture[picture.len() - 3];
    assert!(
        bar.starts_with(&image.layers[0].hex()[..12]) && bar.contains("MB"),
        "{picture:#?}"
    );
    assert!(
        picture[picture.len() - 2].starts_with("interrupted: "),
        "{picture:#?}"
    );
    assert_eq!(picture.last().map(String::as_str), Some(""));
    shelf.ok(&["prune", "-a", "-f"]);
}
