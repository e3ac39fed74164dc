//! Logs of containers: rotated under a writer that does not stop, on a disk that is slow, full, or not to be
//! written (RELIABILITY.md, 39 and 40). Minutes with RCRUN_TEST_FULL=1, seconds without.

use crate::harness::caller::Caller;
use crate::harness::pods::Pods;
use crate::harness::{Env, Test, full, test};
use rcrun_cri::proto::v1 as cri;
use rustix::fs::{IFlags, Mode, OFlags, ioctl_getflags, ioctl_setflags};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

pub(super) fn tests() -> Vec<Test> {
    vec![
        test!(rotated_each_second).timeout(1200),
        test!(rotated_while_the_server_is_killed).timeout(1200),
        test!(a_line_of_many_megabytes).timeout(300),
        test!(bytes_that_are_no_text),
        test!(a_log_without_room_holds_nobody_up),
        test!(a_log_that_must_not_be_written_goes_on),
        test!(a_slow_disk_loses_nothing),
    ]
}

/// Numbered lines, some 80 MiB of them in a second, with a longer one now and then, which the log has in parts.
/// (As fast as it goes it would be 400, which nobody can read at the same time.)
const WRITER: &str = "pad=$(printf '%0960d' 0); long=$(printf '%040000d' 0); exec awk -v pad=$pad -v long=$long \
    'BEGIN { for (n = 0; ; n++) { if (n % 1000 == 999) { print long, n; system(\"sleep 0.01\") } else print pad, n } }'";

/// Reads rotated files, one after the other: no line of them is missing, there twice, or torn.
#[derive(Default)]
struct Reader {
    /// The number that the next line has to have.
    next: u64,
    /// Beginning of a line that was in parts.
    parts: Vec<u8>,
    bytes: u64,
}

impl Reader {
    fn read(&mut self, path: &Path) {
        let all = std::fs::read(path).unwrap();
        assert!(all.is_empty() || all.ends_with(b"\n"), "a torn end");
        self.bytes += all.len() as u64;
        for line in all.split_inclusive(|byte| *byte == b'\n') {
            // TIME STREAM TAG TEXT
            let (head, text) = line.split_at(40);
            assert_eq!((head[19], head[29]), (b'.', b'Z'), "{line:.80?}");
            assert_eq!(&head[30..38], b" stdout ", "{line:.80?}");
            let text = &text[..text.len() - 1];
            match (head[38], head[39]) {
                (b'P', b' ') => {
                    assert_eq!(text.len(), 16 << 10);
                    self.parts.extend_from_slice(text);
                }
                (b'F', b' ') if self.parts.is_empty() => self.line(text),
                (b'F', b' ') => {
                    let mut whole = std::mem::take(&mut self.parts);
                    whole.extend_from_slice(text);
                    self.line(&whole);
                }
                _ => panic!("{line:.80?}"),
            }
        }
    }

    fn line(&mut self, text: &[u8]) {
        let space = text.iter().rposition(|byte| *byte == b' ').unwrap();
        let number = std::str::from_utf8(&text[space + 1..]).unwrap();
        let length = if self.next % 1000 == 999 { 40_000 } else { 960 };
        assert_eq!((number.parse(), space), (Ok(self.next), length));
        self.next += 1;
    }
}

/// Renames the log, has it opened anew, and reads what was renamed: as a kubelet does.
fn rotate(caller: &mut Caller, id: &str, log: &Path, reader: &mut Reader) {
    let old = log.with_extension("old");
    std::fs::rename(log, &old).unwrap();
    let request = cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    caller
        .ask(|mut client| {
            let request = request.clone();
            async move { client.reopen_container_log(request).await }
        })
        .unwrap();
    reader.read(&old);
    std::fs::remove_file(old).unwrap();
}

/// A container that writes as fast as it can; its identifier and its log.
fn writer(pods: &Pods, pod: &str, of_pod: &cri::PodSandboxConfig) -> (String, PathBuf) {
    let id = pods.create(pod, &pods.container("writer", WRITER), of_pod);
    pods.start(&id);
    let log = pods.status(&id).log_path.into();
    (id, log)
}

/// Rotates each `pause` for a while; with rotations and what was read, after the writer was stopped.
fn rotate_for(pods: &Pods, seconds: u64, pause: Duration) -> (usize, Reader) {
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let (id, log) = writer(pods, &pod, &of_pod);
    let (mut caller, mut reader) = (Caller::new(&pods.node.socket), Reader::default());
    let (begun, mut rotations) = (Instant::now(), 0);
    while begun.elapsed() < Duration::from_secs(seconds) {
        let next = Instant::now() + pause;
        rotate(&mut caller, &id, &log, &mut reader);
        rotations += 1;
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
    let took = begun.elapsed().as_secs_f64();
    let status = pods.status(&id);
    assert_eq!(status.state(), cri::ContainerState::ContainerRunning);
    pods.stop_container(&id, 0);
    // The last line may be one that the program had not finished.
    let last = std::fs::read(&log).unwrap();
    let whole = last.len() - unfinished(&last);
    std::fs::write(&log, &last[..whole]).unwrap();
    reader.read(&log);
    let rate = reader.bytes as f64 / took / f64::from(1 << 20);
    println!(
        "{rotations} rotations, {} lines, {rate:.0} MiB/s for {took:.0} s",
        reader.next
    );
    pods.remove(&pod);
    (rotations, reader)
}

/// How long the parts are of a line without an end.
fn unfinished(log: &[u8]) -> usize {
    let lines: Vec<_> = log.split_inclusive(|byte| *byte == b'\n').collect();
    let parts = lines.iter().rev().take_while(|line| line[38] == b'P');
    parts.map(|line| line.len()).sum()
}

fn rotated_each_second(env: &Env) {
    let pods = Pods::new(env);
    let (seconds, pause) = if full() { (600, 1000) } else { (4, 200) };
    let (rotations, reader) = rotate_for(&pods, seconds, Duration::from_millis(pause));
    assert!(rotations > 3 && reader.next > 10_000);
    pods.assert_nothing_left();
}

fn rotated_while_the_server_is_killed(env: &Env) {
    let pods = Pods::new(env);
    let stop = AtomicBool::new(false);
    let socket = pods.node.socket.clone();
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let (id, log) = writer(&pods, &pod, &of_pod);
    let (reader, kills) = std::thread::scope(|scope| {
        let rotating = scope.spawn(|| {
            let (mut caller, mut reader) = (Caller::new(&socket), Reader::default());
            while !stop.load(Ordering::Relaxed) {
                rotate(&mut caller, &id, &log, &mut reader);
            }
            reader
        });
        let (begun, mut kills) = (Instant::now(), 0_u64);
        while begun.elapsed() < Duration::from_secs(if full() { 300 } else { 4 }) {
            std::thread::sleep(Duration::from_millis(150 + kills * 37 % 400));
            pods.node.kill();
            pods.node.start();
            kills += 1;
        }
        stop.store(true, Ordering::Relaxed);
        (rotating.join().unwrap(), kills)
    });
    println!(
        "{kills} kills, {} lines, {} MiB",
        reader.next,
        reader.bytes >> 20
    );
    assert!(kills > 0 && reader.next > 1000);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn a_line_of_many_megabytes(env: &Env) {
    let size: usize = if full() { 100 << 20 } else { 8 << 20 };
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = format!("head -c {size} /dev/zero | tr '\\0' x; echo; echo after");
    let (text, status) = pods.finish(&pod, &of_pod, &pods.container("c", &script));
    assert_eq!(status.exit_code, 0);
    let (line, after) = text.split_once('\n').unwrap();
    assert_eq!((line.len(), after), (size, "after\n"));
    assert!(line.bytes().all(|byte| byte == b'x'));
    pods.remove(&pod);
    pods.assert_nothing_left();
}

fn bytes_that_are_no_text(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = r"printf 'a\000b\377\303(\r\n\000\n\200'; exit 3";
    let config = pods.container("c", script);
    let id = pods.create(&pod, &config, &of_pod);
    pods.start(&id);
    let status = pods.ended(&id);
    let all = std::fs::read(&status.log_path).unwrap();
    let lines: Vec<_> = all.split_inclusive(|byte| *byte == b'\n').collect();
    let texts: Vec<&[u8]> = lines.iter().map(|line| &line[31..]).collect();
    let expected: [&[u8]; 3] = [
        b"stdout F a\0b\xff\xc3(\r\n",
        b"stdout F \0\n",
        b"stdout P \x80\n",
    ];
    assert_eq!(texts, expected);
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// What a log says is missing, and what is there, in bytes of output.
fn account(text: &str) -> (usize, usize) {
    let (mut there, mut missing) = (0, 0);
    for line in text.lines() {
        let output = line.splitn(4, ' ').nth(3).unwrap();
        match output.strip_prefix("rcrun: ") {
            Some(words) => missing += words.split(' ').next().unwrap().parse::<usize>().unwrap(),
            None => there += output.len() + 1,
        }
    }
    (there, missing)
}

fn a_log_without_room_holds_nobody_up(env: &Env) {
    let pods = Pods::new(env);
    let mut of_pod = pods.pod("full");
    let disk = env.directory("disk");
    let mount = std::process::Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=64k", "small"])
        .arg(&disk)
        .status();
    assert!(mount.unwrap().success());
    of_pod.log_directory = disk.display().to_string();
    let pod = pods.run(&of_pod);
    let script = "line=$(printf '%01000d' 0); n=0; while [ $n -lt 500 ]; do echo $line; n=$((n+1)); done; \
                  until [ -e /dev/shm/go ]; do sleep 0.01; done; sleep 1.2; echo after; sleep 0.1";
    let id = pods.create(&pod, &pods.container("c", script), &of_pod);
    pods.start(&id);
    let status = pods.status(&id);
    let end = Instant::now() + Duration::from_secs(10);
    while std::fs::metadata(&status.log_path).unwrap().len() < 60 << 10 {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    let remount = std::process::Command::new("mount")
        .args(["-o", "remount,size=4m"])
        .arg(&disk)
        .status();
    assert!(remount.unwrap().success());
    let boot = env.rt.root.join(".cri/pods").join(&pod).join("shm/go");
    std::fs::write(boot, "").unwrap();
    let status = pods.ended(&id);
    assert_eq!(status.exit_code, 0);
    let text = std::fs::read_to_string(&status.log_path).unwrap();
    // Each byte is there, or is among those that are said to be missing.
    let (there, missing) = account(&text);
    assert!(missing > 0);
    assert_eq!(there + missing, 500 * 1001 + "after\n".len());
    assert!(text.ends_with("stdout F after\n"));
    pods.remove(&pod);
    pods.assert_nothing_left();
    let unmounted = std::process::Command::new("umount").arg(&disk).status();
    assert!(unmounted.unwrap().success());
}

/// Sets or takes back `chattr +i`.
fn set_immutable(path: &Path, yes: bool) -> rustix::io::Result<()> {
    let file = rustix::fs::open(path, OFlags::RDONLY, Mode::empty())?;
    let mut flags = ioctl_getflags(&file)?;
    flags.set(IFlags::IMMUTABLE, yes);
    ioctl_setflags(&file, flags)
}

fn a_log_that_must_not_be_written_goes_on(env: &Env) {
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = "line=$(printf '%0999d' 0); n=0; until [ -e /dev/shm/go ]; do echo $line; n=$((n+1)); \
                  sleep 0.001; done; echo $n >/dev/shm/count; sleep 1.2; echo after; sleep 0.1";
    let id = pods.create(&pod, &pods.container("c", script), &of_pod);
    pods.start(&id);
    let log = PathBuf::from(pods.status(&id).log_path);
    std::thread::sleep(Duration::from_millis(100));
    if let Err(errno) = set_immutable(&log, true) {
        pods.remove(&pod);
        env.skip(format!("{}: no immutable files: {errno}", log.display()));
    }
    std::thread::sleep(Duration::from_secs(1));
    let stuck = std::fs::metadata(&log).unwrap().len();
    set_immutable(&log, false).unwrap();
    let shm = env.rt.root.join(".cri/pods").join(&pod).join("shm");
    std::fs::write(shm.join("go"), "").unwrap();
    assert_eq!(pods.ended(&id).exit_code, 0);
    let count: usize = std::fs::read_to_string(shm.join("count"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    let text = std::fs::read_to_string(&log).unwrap();
    let (there, missing) = account(&text);
    println!("{there} bytes are there, {missing} are missing");
    // The program went on meanwhile, and what it wrote is counted.
    assert!(missing > 5 * 1000, "{missing}");
    assert_eq!(there + missing, count * 1000 + "after\n".len());
    assert!(text.contains("operation not permitted"), "{stuck}");
    assert!(text.ends_with("stdout F after\n"));
    pods.remove(&pod);
    pods.assert_nothing_left();
}

/// The process that has this file open and is nobody's but ours: the container's monitor.
fn monitor_of(log: &Path) -> i32 {
    let has_it = |pid: &i32| {
        let Ok(all) = std::fs::read_dir(format!("/proc/{pid}/fd")) else {
            return false;
        };
        let mut links = all.flatten().map(|one| std::fs::read_link(one.path()));
        links.any(|link| link.is_ok_and(|link| link == log))
    };
    let numbers = std::fs::read_dir("/proc").unwrap().flatten();
    let mut pids = numbers.filter_map(|one| one.file_name().to_str()?.parse().ok());
    pids.find(has_it).unwrap()
}

fn a_slow_disk_loses_nothing(env: &Env) {
    const LINES: usize = 4000;
    let pods = Pods::new(env);
    let of_pod = pods.pod("one");
    let pod = pods.run(&of_pod);
    let script = format!(
        "until [ -e /dev/shm/go ]; do sleep 0.01; done; line=$(printf '%0999d' 0); n=0; \
         while [ $n -lt {LINES} ]; do echo $line; n=$((n+1)); done"
    );
    let id = pods.create(&pod, &pods.container("c", &script), &of_pod);
    pods.start(&id);
    let log = PathBuf::from(pods.status(&id).log_path);
    // Each write of the log takes 20 ms more.
    let pid = monitor_of(&log).to_string();
    let note = env.path("strace.log");
    let mut strace = Command::new("strace");
    strace.args(["-I", "2", "-p", &pid, "-P"]).arg(&log);
    strace.args([
        "-e",
        "trace=write",
        "-e",
        "inject=write:delay_enter=20000",
        "-o",
    ]);
    strace.arg(&note);
    let tracer = env.rt.spawn(strace);
    let end = Instant::now() + Duration::from_secs(10);
    let traced = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        !status.contains("TracerPid:\t0\n")
    };
    while !traced() {
        assert!(Instant::now() < end);
        std::thread::sleep(Duration::from_millis(5));
    }
    let go = env.rt.root.join(".cri/pods").join(&pod).join("shm/go");
    std::fs::write(go, "").unwrap();
    // Meanwhile the server answers at once.
    let mut longest = Duration::ZERO;
    let status = loop {
        let begun = Instant::now();
        let status = pods.status(&id);
        longest = longest.max(begun.elapsed());
        if status.state() == cri::ContainerState::ContainerExited {
            break status;
        }
        assert!(Instant::now() < end + Duration::from_secs(30), "{status:?}");
        std::thread::sleep(Duration::from_millis(2));
    };
    println!("an answer took {longest:?} at most");
    assert_eq!(status.exit_code, 0);
    let text = std::fs::read_to_string(&log).unwrap();
    assert_eq!(account(&text), (LINES * 1000, 0));
    env.rt.finish(tracer);
    assert!(std::fs::read_to_string(note).unwrap().contains("DELAYED"));
    pods.remove(&pod);
    pods.assert_nothing_left();
}
