//! `rcrun`: looks the verb up, runs it, turns its result into an exit code.
//!
//! Nothing of clap is built before the verb is known, and then only that verb's parser.

mod arguments;
mod build;
mod containers;
mod format;
mod help;
mod images;
mod interrupt;
mod logging;
mod output;
mod progress;
mod report;
mod rootless;
mod settings;
mod units;
mod verbs;

use std::process::ExitCode;

/// Debug builds, and so all tests, prove that a container's init allocates nothing.
#[cfg(debug_assertions)]
#[global_allocator]
static ALLOCATOR: rcrun_runtime::sys::alloc_guard::Guarded =
    rcrun_runtime::sys::alloc_guard::Guarded;

use settings::{GLOBAL, Global};

fn main() -> ExitCode {
    let words: Result<Vec<String>, _> = std::env::args_os()
        .skip(1)
        .map(std::ffi::OsString::into_string)
        .collect();
    let words = match words {
        Ok(words) => words,
        Err(word) => return report::early(&format!("argument {word:?} is not valid UTF-8")),
    };
    let table: Vec<arguments::Flag<'_>> = GLOBAL.iter().map(|(flag, _)| *flag).collect();
    let split = match arguments::split(&words, &table, Some(0)) {
        Ok(split) => split,
        Err(message) => return report::usage(&message, None),
    };
    let mut global = Global::default();
    for (index, value) in split.flags {
        global.set(table[index].long, value);
    }
    let (name, rest) = match split.positional.as_slice() {
        _ if global.version => return report::finish(output::print(&help::version())),
        [] => return report::finish(output::print(&help::program())),
        [name, rest @ ..] => (name.as_str(), rest),
    };
    if name == "help" || name == "h" {
        return help::topic(rest.first().map(String::as_str));
    }
    let Some(verb) = verbs::choose(name, rest) else {
        let asked = global.help || rest.iter().any(|word| word == "-h" || word == "--help");
        return report::unknown_topic(name, if asked { 1 } else { 3 });
    };
    // As early as can be: what was done before it is done twice. As root of a namespace there are
    // better ways to, so an ordinary user's verbs enter that first.
    let ordinary = rootless::is_needed();
    if verb.enters_container
        && !ordinary
        && let Err(error) = rcrun_runtime::selfexe::seal()
    {
        return report::early(&error.chain().to_string());
    }
    // The same word for people's containers and for those of an OCI runtime.
    let choice = match verbs::dispatch::choose(verb, rest, &mut global) {
        Ok(choice) => choice,
        Err(error) => return report::early(&error.chain().to_string()),
    };
    let (verb, rest, in_store) = (choice.verb, choice.words.as_ref(), choice.in_store);
    let before = global.clone();
    let parsed = match verb.parse(rest, global) {
        Ok(parsed) => parsed,
        Err(message) => {
            let _ = report::start_log(&before);
            return report::usage(&message, Some(verb));
        }
    };
    if parsed.global.help {
        return report::finish(output::print(&help::verb(verb)));
    }
    let elsewhere = match report::start_log(&parsed.global) {
        Ok(elsewhere) => elsewhere,
        Err(error) => return report::early(&error.chain().to_string()),
    };
    let matches = match parsed.matches {
        Ok(matches) => matches,
        Err(message) => return report::wrong_arguments(&message, verb, elsewhere),
    };
    let mut global = parsed.global;
    let prepared = (|| {
        if in_store {
            rootless::enter()?;
            global.use_defaults_of_user()?;
        }
        match ordinary && verb.enters_container {
            true => rcrun_runtime::selfexe::seal(),
            false => Ok(()),
        }
    })();
    match prepared.and_then(|()| verb.run(matches, global)) {
        Ok(code) => ExitCode::from(code),
        Err(error) => report::failed(verb, &error, elsewhere),
    }
}
