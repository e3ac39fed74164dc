//! Killed at the Nth sync or rename, for every N: the old state or the new one, never between.

use crate::harness::store::Image;
use crate::harness::whole::{Known, kill_everything, mixed};
use crate::harness::{Env, Need, Shelf, Test, cgroup, faults, full, people, test};
use std::fs;

pub(super) fn tests() -> Vec<Test> {
    let strace = |test: Test| test.needs(Need::Program("strace")).timeout(180);
    vec![
        strace(test!(pull_is_killed_anywhere)),
        strace(test!(tag_is_killed_anywhere)),
        strace(test!(rmi_is_killed_anywhere)),
        strace(test!(prune_is_killed_anywhere)),
        strace(test!(settling_is_killed_anywhere)),
        strace(test!(run_is_killed_anywhere)),
        strace(test!(rm_is_killed_anywhere)),
        strace(test!(fsck_is_killed_anywhere)),
    ]
}

/// What makes things durable or visible.
const STEPS: &str = "fsync,fdatasync,syncfs,rename,renameat,renameat2";
/// And what makes them go.
const REMOVALS: &str = "unlink,unlinkat,rmdir,rename,renameat,renameat2";
/// More of them than this are none of ours.
const MANY: usize = 400;

/// A store in which image `a` shares a layer with image `b`.
struct World<'a> {
    shelf: Shelf<'a>,
    known: Known,
    a: String,
    b: String,
}

impl<'a> World<'a> {
    fn new(env: &'a Env) -> Self {
        let shelf = Shelf::new(env);
        let mut known = Known::default();
        let base = people::layer(env, &[("etc/motd", 0o644, b"welcome")]);
        let image = |name, seed| Image::new(&[base.clone(), mixed(name, 12, seed)]);
        known.publish(&shelf, "a", &image("a", 1));
        known.publish(&shelf, "b", &image("b", 2));
        known.also("library/kept");
        let (a, b) = (shelf.name("a"), shelf.name("b"));
        Self { shelf, known, a, b }
    }

    /// Kills `words` at the Nth of each of these calls, N from 1 on, until it is not hit any more: strace counts
    /// each call, and those of each thread, by themselves. Before each there is what `before` makes.
    fn each(&self, calls: &str, words: &[&str], before: impl Fn(), after: impl Fn()) {
        let one = |call| (call, self.each_of(call, words, &before, &after));
        let hits: Vec<(&str, usize)> = calls.split(',').map(one).collect();
        println!("{words:?} was killed at {hits:?}");
        assert!(hits.iter().any(|(_, hits)| *hits > 0), "never hit");
    }

    /// How often it was hit.
    fn each_of(&self, calls: &str, words: &[&str], before: &impl Fn(), after: &impl Fn()) -> usize {
        let env = self.shelf.env;
        let step = match (full(), calls) {
            (true, _) => 1,
            // There are many of these.
            (_, "unlinkat") => 29,
            _ => 3,
        };
        for (hit, number) in (1..MANY).step_by(step).enumerate() {
            before();
            let command = self.shelf.command(words);
            env.rt.note(&format!("-- killed at call {number}\n"));
            let mut traced = std::process::Command::new(command.get_program());
            traced.args(command.get_args());
            let inject = format!("{calls}:signal=SIGKILL:when={number}");
            let output = faults::run(env, &traced, &inject);
            let log = fs::read_to_string(env.path("strace.log")).unwrap();
            let killed = log.contains("+++ killed by SIGKILL");
            kill_everything();
            cgroup::thaw(&env.tag);
            self.known.check(&self.shelf.path());
            self.shelf.call(&["fsck", "--quiet"]).exits(0);
            for name in self.shelf.lines(&["images", "--format", "{ID}"]) {
                self.shelf.ok(&["inspect", &name]);
            }
            after();
            self.known.check(&self.shelf.path());
            if !killed {
                assert_eq!(output.code, 0, "{output}\n{log}");
                return hit;
            }
        }
        panic!("{words:?} is hit without an end");
    }

    /// Both images and nothing else.
    fn both(&self) {
        self.shelf.ok(&["pull", "-q", &self.a]);
        self.shelf.ok(&["pull", "-q", &self.b]);
    }

    fn nothing(&self) {
        self.shelf.ok(&["prune", "-a", "-f"]);
        assert_eq!(self.shelf.counts(), (0, 0, 0));
    }

    fn run(&self) -> [&str; 8] {
        let script = "echo new >/etc/new; cat /etc/motd";
        let image = self.a.as_str();
        [
            "run",
            "--pull=never",
            "--name",
            "one",
            image,
            "sh",
            "-c",
            script,
        ]
    }
}

fn pull_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    let pull = ["pull", "-q", world.a.as_str()];
    let complete = || {
        world.shelf.ok(&pull);
        assert_eq!(world.shelf.counts(), (4, 2, 1));
    };
    world.each(STEPS, &pull, || world.nothing(), complete);
    // With a layer that is there already.
    let one = || {
        world.nothing();
        world.shelf.ok(&["pull", "-q", &world.b]);
    };
    world.each(STEPS, &pull, one, || {
        world.shelf.ok(&pull);
        assert_eq!(world.shelf.counts(), (7, 3, 2));
    });
    world.nothing();
}

fn tag_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    world.both();
    let tag = ["tag", world.a.as_str(), "kept:1"];
    let before = || {
        // A name that moves.
        world.shelf.ok(&["tag", &world.b, "kept:1"]);
    };
    world.each(STEPS, &tag, before, || {
        let id = |name| world.shelf.ok(&["inspect", "--format", "{Id}", name]);
        let found = id("kept:1");
        assert!(found == id(&world.a) || found == id(&world.b));
        world.shelf.ok(&tag);
        assert_eq!(id("kept:1"), id(&world.a));
    });
    world.nothing();
}

fn rmi_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    let rmi = ["rmi", world.a.as_str()];
    for calls in [STEPS, REMOVALS] {
        world.each(
            calls,
            &rmi,
            || world.both(),
            || {
                world.shelf.ok(&["inspect", &world.b]);
                world.shelf.call(&rmi);
                world.shelf.ok(&["prune", "-f"]);
                assert_eq!(world.shelf.counts(), (4, 2, 1));
            },
        );
    }
    world.nothing();
}

fn prune_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    let prune = ["prune", "--all", "--force"];
    for calls in [STEPS, REMOVALS] {
        world.each(
            calls,
            &prune,
            || world.both(),
            || {
                world.shelf.ok(&prune);
                assert_eq!(world.shelf.counts(), (0, 0, 0));
            },
        );
    }
}

/// Layers that were pulled become durable: each counts before, in between and after.
fn settling_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    let prune = ["prune", "--force"];
    let before = || {
        world.shelf.ok(&["prune", "--all", "--force"]);
        world.both();
        world.shelf.age_layers();
    };
    let after = || {
        let found = world.known.check(&world.shelf.path());
        assert_eq!(found.layers, 3);
        world.shelf.ok(&prune);
        assert_eq!(world.shelf.unsettled(), 0);
        assert_eq!(world.known.check(&world.shelf.path()).layers, 3);
    };
    world.each(STEPS, &prune, before, after);
}

fn run_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    world.both();
    let parent = format!("--cgroup-parent={}", env.tag);
    let mut run = world.run().to_vec();
    run.insert(1, &parent);
    let after = || {
        world.shelf.no_containers();
        let _ = fs::remove_dir_all(&env.rt.root);
        let output = world.shelf.call(&run);
        assert_eq!(output.ok().stdout, "welcome");
        world.shelf.ok(&["rm", "one"]);
        world.shelf.no_containers();
    };
    world.each(STEPS, &run, || (), after);
    world.nothing();
}

fn rm_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    world.both();
    let parent = format!("--cgroup-parent={}", env.tag);
    let mut run = world.run().to_vec();
    run.insert(1, &parent);
    let before = || {
        world.shelf.ok(&run);
    };
    for calls in [STEPS, REMOVALS] {
        world.each(calls, &["rm", "one"], before, || {
            world.shelf.call(&["rm", "one"]);
            world.shelf.no_containers();
        });
    }
    world.nothing();
}

fn fsck_is_killed_anywhere(env: &Env) {
    let world = World::new(env);
    let damage = || {
        world.both();
        let manifest = world.shelf.lines(&["images", "--format", "{Digest}"]);
        let path = world.shelf.blob(&manifest[0]);
        let mut bytes = fs::read(&path).unwrap();
        bytes[20] ^= 4;
        let _ = fs::remove_file(&path);
        fs::write(&path, bytes).unwrap();
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o444)).unwrap();
    };
    let repair = ["fsck", "--repair", "--quiet"];
    let step = if full() { 1 } else { 3 };
    let mut hits = 0;
    for call in STEPS.split(',') {
        for number in (1..MANY).step_by(step) {
            damage();
            let command = world.shelf.command(&repair);
            let inject = format!("{call}:signal=SIGKILL:when={number}");
            faults::run(env, &command, &inject);
            let log = fs::read_to_string(env.path("strace.log")).unwrap();
            kill_everything();
            let code = world.shelf.call(&repair).code;
            assert!(code < 2, "{code}");
            world.shelf.call(&["fsck", "--quiet"]).exits(0);
            world.known.check(&world.shelf.path());
            if !log.contains("+++ killed by SIGKILL") {
                break;
            }
            hits += 1;
        }
    }
    println!("fsck --repair was killed {hits} times");
    assert!(hits > 0);
    world.nothing();
}
