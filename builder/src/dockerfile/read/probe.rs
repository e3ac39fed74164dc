//! `HEALTHCHECK`.

use std::time::Duration;

use super::super::duration;
use super::super::fault::Fault;
use super::super::flag::{Given, Takes};
use super::super::instruction::{Healthcheck, Probe};
use super::super::node::Node;
use super::super::quote::quoted;
use super::command;

const HEALTHCHECK: &[(&str, Takes)] = &[
    ("interval", Takes::One),
    ("timeout", Takes::One),
    ("start-period", Takes::One),
    ("start-interval", Takes::One),
    ("retries", Takes::One),
];

pub(super) fn healthcheck(mut node: Node) -> Result<Healthcheck, Fault> {
    let Some(kind) = node.arguments.first().map(|kind| kind.to_uppercase()) else {
        return Err(Fault::new("HEALTHCHECK requires at least one argument"));
    };
    node.arguments.remove(0);
    if kind == "NONE" {
        if !node.arguments.is_empty() {
            return Err(Fault::new("HEALTHCHECK NONE takes no arguments"));
        }
        return Ok(Healthcheck::None);
    }
    let given = Given::read(&node.flags, HEALTHCHECK)?;
    if kind != "CMD" {
        return Err(Fault::new(format!(
            "Unknown type {} in HEALTHCHECK (try CMD)",
            quoted(&kind)
        )));
    }
    if node.arguments.is_empty() {
        return Err(Fault::new("Missing command after HEALTHCHECK CMD"));
    }
    let duration = |name: &str| -> Result<Duration, Fault> {
        let Some(text) = given.text(name) else {
            return Ok(Duration::ZERO);
        };
        let fault = |message: String| match given.range(name) {
            Some(range) => Fault::new(message).at(range),
            None => Fault::new(message),
        };
        let value = duration::parse(&text).map_err(fault)?;
        if !value.is_zero() && value < Duration::from_millis(1) {
            return Err(fault(format!(
                "Interval {} cannot be less than 1ms",
                quoted(name)
            )));
        }
        Ok(value)
    };
    let retries = match given.text("retries") {
        None => 0,
        Some(text) => match text.parse::<i32>() {
            Ok(number) => u32::try_from(number)
                .map_err(|_| Fault::new(format!("--retries cannot be negative ({number})")))?,
            Err(_) => {
                return Err(Fault::new(format!(
                    "invalid --retries {text:?}: expected a number"
                )));
            }
        },
    };
    let (interval, timeout) = (duration("interval")?, duration("timeout")?);
    let (start_period, start_interval) = (duration("start-period")?, duration("start-interval")?);
    let command = command(node);
    Ok(Healthcheck::Cmd(Probe {
        command,
        interval,
        timeout,
        start_period,
        start_interval,
        retries,
    }))
}
