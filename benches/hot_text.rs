//! Writes `hot-text.ld`, the order in which a release build places its functions.
//!
//! Steps through the verbs of a container's life one instruction at a time, children included, and
//! lists the sections that any of them executed. Names lose their hashes, so the list outlives
//! small changes of the code; a name that no longer exists is ignored by the linker. Run as root,
//! some minutes, after larger changes:
//!
//! ```text
//! RCRUN_LINK_MAP=$PWD/target/link.map cargo bench --bench hot_text
//! ```

#![allow(clippy::print_stdout, clippy::unwrap_used, missing_docs)]

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Command, Stdio};

use nix::sys::ptrace::{self, Event, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use support::{RCRUN, bundle};

/// Hot whatever the steps say: what sets a container up, and the growing of vectors, of which the
/// compiler keeps one of many equal instantiations, not always the same.
const ALWAYS: [&str; 13] = [
    // What the linker folds into one may have another's name next time.
    "*(.text._R*NtCs*_3std4pathNtB6_4Path7is_file)",
    "*(.text._RNvNtNtCs*_3std3sys2fs8metadata)",
    "*(.text._RNvNtNtCs*_6rustix2fs3abs9__readlink)",
    "*(.text._R*AnyValueParser15possible_values*)",
    "*(.text._R*core3any*3Any7type_id*)",
    "*(.text.unlikely._R*SliceRead19skip_to_escape_slow)",
    "*(.text._R*13rcrun_runtime6launch*)",
    "*(.text._R*13rcrun_runtime6rootfs*)",
    "*(.text._R*13rcrun_runtime4plan*)",
    "*(.text._R*13rcrun_runtime5state*)",
    "*(.text._R*13rcrun_runtime3sys*)",
    "*(.text._R*13rcrun_runtime10operations6create*)",
    "*(.text.unlikely._R*_5alloc7raw_vec*8grow_one*)",
];

/// Constants that every start reads, of the C library and strings: not between those of others.
const CONSTANTS: &str = "SECTIONS
{
  .rodata.hot : {
    *libc.a:*(.rodata .rodata.*)
    *(.rodata.cst4 .rodata.cst8 .rodata.cst16 .rodata.cst32)
    *(.rodata.str1.1 .rodata.str1.8)
  }
} INSERT BEFORE .rodata;
";

fn main() {
    if !support::asked_for() {
        return;
    }
    let Some(map) = std::env::var_os("RCRUN_LINK_MAP") else {
        println!("set RCRUN_LINK_MAP to the absolute path of a new file, see benches/hot_text.rs");
        return;
    };
    let sections = sections(&std::fs::read_to_string(map).unwrap());
    let mut executed = BTreeSet::new();
    let work = std::env::temp_dir().join(format!("rcrun-hot-text-{}", std::process::id()));
    for verb in life(&work) {
        println!("stepping through {}", verb.join(" "));
        executed.extend(step(&work, &verb));
    }
    std::fs::remove_dir_all(&work).unwrap();
    let hot: BTreeSet<u64> = executed
        .iter()
        .filter_map(|at| sections.range(..=at).next_back())
        .filter(|(start, section)| {
            executed
                .range(*start..&(*start + section.size))
                .next()
                .is_some()
        })
        .map(|(start, _)| *start)
        .collect();
    let mut patterns: Vec<String> = Vec::new();
    for section in hot.iter().map(|start| &sections[start]) {
        if !patterns.contains(&section.pattern) {
            patterns.push(section.pattern.clone());
        }
    }
    // Behind what was executed, so that it does not lie in between.
    patterns.extend(ALWAYS.map(str::to_owned));
    let list = format!(
        "/* Written by hot_text.rs. */\nSECTIONS\n{{\n  .text.hot : {{\n    {}\n  }}\n}} INSERT BEFORE .text;\n{CONSTANTS}",
        patterns.join("\n    ")
    );
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/hot-text.ld");
    std::fs::write(&file, list).unwrap();
    println!("{}: {} patterns", file.display(), patterns.len());
}

/// One section of code in the program.
struct Section {
    size: u64,
    /// How a linker script names it.
    pattern: String,
}

/// Reads lld's map: `VMA LMA SIZE ALIGN FILE:(SECTION)`.
fn sections(map: &str) -> BTreeMap<u64, Section> {
    let hex = |word: &str| u64::from_str_radix(word, 16).ok();
    let section = |line: &str| {
        let mut words = line.split_whitespace();
        let start = hex(words.next()?)?;
        let size = hex(words.nth(1)?)?;
        let (file, name) = words.nth(1)?.strip_suffix(')')?.split_once(":(")?;
        name.starts_with(".text").then(|| {
            let pattern = pattern(file, name);
            (start, Section { size, pattern })
        })
    };
    map.lines()
        .filter_map(section)
        .filter(|(_, section)| section.size > 0)
        .collect()
}

/// `*(SECTION)` without hashes for our own code, `*ARCHIVE:MEMBER(SECTION)` for the C library.
fn pattern(file: &str, section: &str) -> String {
    let file = file.rsplit('/').next().unwrap_or(file);
    match file.strip_suffix(')').and_then(|file| file.split_once('(')) {
        Some((archive, member)) => format!("*{archive}:{member}({section})"),
        None if section == ".text" => format!("*{file}({section})"),
        None => format!("*({})", without_hashes(section)),
    }
}

/// Replaces the hashes of crates (`Cs1a2B_`) and the numbers of the compiler's copies (`.1234`).
fn without_hashes(name: &str) -> String {
    let mut name = name.to_owned();
    if let Some((front, number)) = name.rsplit_once('.')
        && number.bytes().all(|byte| byte.is_ascii_digit())
    {
        name = format!("{front}*");
    }
    let mut from = 0;
    while let Some(at) = name[from..].find("Cs").map(|at| from + at + 2) {
        let hash = name[at..]
            .bytes()
            .take_while(u8::is_ascii_alphanumeric)
            .count();
        if hash > 0 && name[at + hash..].starts_with('_') {
            name.replace_range(at..at + hash, "*");
        }
        from = at;
    }
    name
}

/// Makes two bundles and names the verbs of their containers' lives.
fn life(work: &Path) -> Vec<Vec<String>> {
    let short = bundle(work, "short", "true");
    let long = bundle(work, "long", "sleep 1000000");
    let long = long.display();
    let id = |name: &str| format!("hot-text-{name}-{}", std::process::id());
    let verbs = [
        format!("run --bundle {} {}", short.display(), id("run")),
        format!("create --bundle {long} {}", id("life")),
        format!("start {}", id("life")),
        format!("state {}", id("life")),
        format!("exec {} true", id("life")),
        format!("kill {} KILL", id("life")),
        format!("delete {}", id("life")),
    ];
    verbs
        .map(|verb| verb.split(' ').map(str::to_owned).collect())
        .into()
}

/// Runs a verb to its end, and says which addresses were executed by it and by its children, up
/// to the program of the container.
fn step(work: &Path, verb: &[String]) -> BTreeSet<u64> {
    let state = work.join("state");
    let mut shell = Command::new("sh")
        .args(["-c", "kill -STOP $$; exec \"$@\"", "sh", RCRUN, "--root"])
        .arg(&state)
        .args(verb)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let child = Pid::from_raw(i32::try_from(shell.id()).unwrap());
    waitpid(child, Some(WaitPidFlag::WUNTRACED)).unwrap();
    let follow = Options::PTRACE_O_TRACEEXEC
        | Options::PTRACE_O_TRACEFORK
        | Options::PTRACE_O_TRACEVFORK
        | Options::PTRACE_O_TRACECLONE;
    ptrace::seize(child, follow).unwrap();
    kill(child, Signal::SIGCONT).unwrap();
    let mut seen = BTreeSet::new();
    let mut left = usize::MAX;
    // The container of `create` lives on, waiting; it is left alone when the verb has ended.
    while left > 0 {
        let any = waitpid(
            None::<Pid>,
            Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG),
        );
        match any {
            Ok(WaitStatus::StillAlive) if left < usize::MAX => {
                left -= 1;
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
            Ok(WaitStatus::StillAlive) => {}
            Ok(WaitStatus::Exited(pid, code)) if pid == child => {
                assert_eq!(code, 0, "{verb:?}");
                left = 100;
            }
            Ok(WaitStatus::Exited(..) | WaitStatus::Signaled(..)) => {}
            Ok(stop) => go_on(stop, &mut seen),
            Err(_) => break,
        }
    }
    // Already waited for above.
    let _ = shell.try_wait();
    seen
}

/// Lets a stopped process do its next instruction.
fn go_on(stop: WaitStatus, seen: &mut BTreeSet<u64>) {
    let pid = stop.pid().unwrap();
    let signal = match stop {
        WaitStatus::PtraceEvent(_, _, event) if event == Event::PTRACE_EVENT_EXEC as i32 => {
            let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
            if program.ends_with("busybox") {
                let _ = ptrace::detach(pid, None);
                return;
            }
            None
        }
        WaitStatus::Stopped(_, Signal::SIGTRAP | Signal::SIGSTOP) => None,
        WaitStatus::Stopped(_, signal) => Some(signal),
        _ => None,
    };
    if let Ok(registers) = ptrace::getregs(pid) {
        seen.insert(registers.rip);
    }
    let _ = ptrace::step(pid, signal);
}
