//! Which stages are needed, and that none needs itself.

use super::{Base, Problem, Stage};
use crate::Error;

/// Marks what the target needs, or tells of a circle.
pub fn reachable(stages: &mut [Stage], target: usize) -> Result<(), Problem> {
    // Of each stage: not seen, being looked at, done.
    let mut state = vec![0_u8; stages.len()];
    let mut open = vec![(target, needs(&stages[target]))];
    state[target] = 1;
    while let Some((at, rest)) = open.last_mut() {
        let at = *at;
        let Some(next) = rest.pop() else {
            state[at] = 2;
            stages[at].needed = true;
            open.pop();
            continue;
        };
        match state[next] {
            0 => {
                state[next] = 1;
                let needs = needs(&stages[next]);
                open.push((next, needs));
            }
            1 => {
                let text = format!(
                    "circular dependency detected on stage: {}",
                    stages[next].name
                );
                return Err(Problem::at(stages[at].span, Error::invalid(text)));
            }
            _ => {}
        }
    }
    Ok(())
}

fn needs(stage: &Stage) -> Vec<usize> {
    let mut all: Vec<usize> = stage
        .steps
        .iter()
        .flat_map(|step| step.op.needs())
        .collect();
    if let Base::Stage(index) = stage.base {
        all.push(index);
    }
    all
}
