//! What is no configuration, or none that could be acted on.

use super::*;

#[test]
fn what_could_only_be_ignored_is_refused() {
    let zero = LinuxMemory::default;
    let cases: Vec<(&str, Adjust)> = vec![
        (
            "memory.kernel ",
            memory(LinuxMemory {
                kernel: int64(1),
                ..zero()
            }),
        ),
        (
            "memory.kernelTCP",
            memory(LinuxMemory {
                kernel_tcp: int64(1),
                ..zero()
            }),
        ),
        (
            "useHierarchy",
            memory(LinuxMemory {
                use_hierarchy: Some(OptionalBool { value: false }),
                ..zero()
            }),
        ),
        (
            "\"fast\"",
            resources(LinuxResources {
                blockio_class: text("fast"),
                ..LinuxResources::default()
            }),
        ),
        (
            "I/O priority 9",
            linux(Linux {
                io_priority: Some(LinuxIoPriority {
                    class: 9,
                    priority: 0,
                }),
                ..Linux::default()
            }),
        ),
        (
            "scheduling policy 99",
            linux(Linux {
                scheduler: Some(LinuxScheduler {
                    policy: 99,
                    ..LinuxScheduler::default()
                }),
                ..Linux::default()
            }),
        ),
        (
            "flag of scheduling 99",
            linux(Linux {
                scheduler: Some(LinuxScheduler {
                    flags: vec![99],
                    ..LinuxScheduler::default()
                }),
                ..Linux::default()
            }),
        ),
        (
            "mode of memory policy 99",
            linux(Linux {
                memory_policy: Some(LinuxMemoryPolicy {
                    mode: 99,
                    ..LinuxMemoryPolicy::default()
                }),
                ..Linux::default()
            }),
        ),
        ("named \"A=B\"", env(&[("A=B", "1")])),
        ("named \"A\\0\"", env(&[("A\0", "1")])),
    ];
    for (words, wanted) in cases {
        let error = apply(&mut json!({}), &wanted)
            .unwrap_err()
            .chain()
            .to_string();
        assert!(error.contains(words), "{words}: {error}");
    }
}

#[test]
fn a_configuration_that_is_none_is_an_error() {
    for spec in [
        json!(null),
        json!([]),
        json!({"process": 1}),
        json!({"process": {"env": {}}}),
        json!({"process": {"env": "A=1"}}),
    ] {
        let (mut copy, own) = (spec.clone(), spec);
        match apply(&mut copy, &env(&[("A", "1")])) {
            // Nothing there is made.
            Ok(_) => assert!(own.is_null()),
            Err(error) => assert!(
                error
                    .chain()
                    .to_string()
                    .contains("of the configuration is not")
            ),
        }
    }
}
