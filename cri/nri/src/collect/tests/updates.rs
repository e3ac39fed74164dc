//! Limits of containers that exist.

use super::*;

fn limit(value: i64) -> LinuxResources {
    LinuxResources {
        memory: Some(LinuxMemory {
            limit: Some(OptionalInt64 { value }),
            ..LinuxMemory::default()
        }),
        ..LinuxResources::default()
    }
}

fn pids(limit: i64) -> LinuxResources {
    LinuxResources {
        pids: Some(LinuxPids { limit }),
        ..LinuxResources::default()
    }
}

#[test]
fn updates_that_may_fail_leave_nothing_behind() {
    let mut updates = Updates::new(None, None);
    updates
        .add("10-a", vec![update("x", limit(1), true)])
        .unwrap();
    // The conflict takes the other limit with it.
    let both = LinuxResources {
        pids: pids(5).pids,
        ..limit(2)
    };
    updates.add("20-b", vec![update("x", both, true)]).unwrap();
    // So a third may set it, and needs it.
    updates
        .add("30-c", vec![update("x", pids(6), false)])
        .unwrap();
    let expected = LinuxResources {
        pids: pids(6).pids,
        ..limit(1)
    };
    assert_eq!(updates.finish().0, [update("x", expected, false)]);
}

#[test]
fn nobody_updates_the_container_that_is_made() {
    let mut creation = Creation::new(CreateContainerRequest {
        pod: None,
        container: Some(container()),
    });
    let answer = CreateContainerResponse {
        update: vec![update("c", limit(1), true)],
        ..CreateContainerResponse::default()
    };
    let error = creation.add("10-a", answer).unwrap_err().to_string();
    assert!(
        error.contains("10-a") && error.contains("container c"),
        "{error}"
    );
}

#[test]
fn updates_of_the_container_of_the_event_are_no_list() {
    let subject = Some(("c".to_owned(), everything(1)));
    let mut updates = Updates::new(None, subject);
    // What the request says is nobody's yet.
    updates
        .add(
            "10-a",
            vec![update("c", limit(2), false), update("d", limit(3), false)],
        )
        .unwrap();
    assert!(
        updates
            .add("20-b", vec![update("c", limit(4), false)])
            .is_err()
    );
    let mut expected = everything(1);
    expected.memory.as_mut().unwrap().limit = Some(OptionalInt64 { value: 2 });
    assert_eq!(updates.subject(), Some(&expected));
    assert_eq!(updates.finish().0, [update("d", limit(3), false)]);
}
