//! `--log-driver` and `--log-opt`.

use std::collections::BTreeMap;

use rcrun_runtime::error::Error;

use super::super::words::{self, Problems};
use super::Asked;
use crate::containers::Log;
use crate::containers::flags::ContainerFlags;

/// A log file is followed by a new one at this size, and so many are kept.
const LOG_SIZE: i64 = 10 << 20;
const LOG_FILES: u32 = 3;
/// The most files of a log.
const MOST_LOG_FILES: u32 = 100;

impl Asked {
    /// Where output is kept; labels and environment are the container's.
    pub(crate) fn log(&self, labels: &BTreeMap<String, String>, env: &[String]) -> Option<Log> {
        let mut log = self.log.clone()?;
        let [of_labels, of_env] = &self.log_attributes;
        for name in of_labels {
            let value = labels.get(name);
            log.attributes
                .extend(value.map(|value| (name.clone(), value.clone())));
        }
        for name in of_env {
            let mut pairs = env.iter().filter_map(|pair| pair.split_once('='));
            let value = pairs.find(|(other, _)| other == name);
            log.attributes
                .extend(value.map(|(_, value)| (name.clone(), value.to_owned())));
        }
        Some(log)
    }
}

/// The log, and which labels and variables its lines are shown with.
pub(super) fn read(
    flags: &ContainerFlags,
    problems: &mut Problems,
) -> (Option<Log>, [Vec<String>; 2]) {
    let mut chosen = [Vec::new(), Vec::new()];
    let names = |text: &str| -> Vec<String> {
        let words = text.split(',').filter(|word| !word.is_empty());
        words.map(str::to_owned).collect()
    };
    let (mut max_size, mut max_files) = (LOG_SIZE, LOG_FILES);
    for (name, value) in problems.all("--log-opt", &flags.log_opt, words::pair) {
        let number = || {
            Error::invalid(format!(
                "max-file={value} is no number of 1 to {MOST_LOG_FILES}"
            ))
        };
        match name.as_str() {
            "max-size" => {
                max_size = problems
                    .take("--log-opt", words::size_or_unlimited(&value))
                    .unwrap_or(-1);
            }
            "max-file" => {
                let count = value
                    .parse()
                    .ok()
                    .filter(|count| (1..=MOST_LOG_FILES).contains(count));
                max_files = problems
                    .take("--log-opt", count.ok_or_else(number))
                    .unwrap_or(1);
            }
            "labels" => chosen[0] = names(&value),
            "env" => chosen[1] = names(&value),
            _ => problems.tell(format!(
                "--log-opt: {name:?} is none of max-size, max-file, labels, env"
            )),
        }
    }
    match flags.log_driver.as_deref() {
        Some("none") => return (None, chosen),
        None | Some("json-file" | "local" | "k8s-file") => {}
        Some(other) => problems.tell(format!(
            "--log-driver: {other:?} is not supported: output is kept for `rcrun logs`, or not at all (none)"
        )),
    }
    let max_size = u64::try_from(max_size).ok().filter(|size| *size > 0);
    let log = Log {
        max_size,
        max_files,
        attributes: BTreeMap::new(),
    };
    (Some(log), chosen)
}
