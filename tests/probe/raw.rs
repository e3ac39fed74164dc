//! System calls that no safe crate offers. One function per call.
#![allow(unsafe_code, reason = "raw system calls are what the probe is for")]

use serde_json::{Value, json};

/// Any system call by number; the result or the negated errno, as the kernel returns it.
pub(crate) fn call(number: i64, a: [i64; 6]) -> i64 {
    // SAFETY: the probe passes numbers only, or addresses of memory that outlives the call; whatever the kernel
    // does with them happens to this process alone, which exits right after.
    let result = unsafe { libc::syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]) };
    if result < 0 {
        return -i64::from(std::io::Error::last_os_error().raw_os_error().unwrap_or(0));
    }
    result
}

/// A call through the 32-bit entry, which seccomp sees as architecture i386.
#[cfg(target_arch = "x86_64")]
pub(crate) fn call_i386(number: i32, first: i32) -> i64 {
    let result: i64;
    // SAFETY: int 0x80 takes 32-bit numbers and clobbers what is listed; rbx is saved because LLVM reserves it.
    unsafe {
        std::arch::asm!(
            "push rbx", "mov ebx, {first:e}", "int 0x80", "pop rbx",
            first = in(reg) first,
            inlateout("rax") i64::from(number) => result,
            in("rcx") 0_i64, in("rdx") 0_i64, in("rsi") 0_i64, in("rdi") 0_i64,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    i64::from(result as i32)
}

#[cfg(not(target_arch = "x86_64"))]
pub(crate) fn call_i386(_number: i32, _first: i32) -> i64 {
    -i64::from(libc::ENOSYS)
}

/// `struct sched_attr` of sched_setattr(2).
#[repr(C)]
#[derive(Default)]
struct SchedAttr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    runtime: u64,
    deadline: u64,
    period: u64,
    util: [u32; 2],
}

pub(crate) fn scheduler() -> Value {
    let mut attr = SchedAttr::default();
    let size = i64::try_from(size_of::<SchedAttr>()).unwrap_or(0);
    let at = (&raw mut attr) as i64;
    if call(libc::SYS_sched_getattr, [0, at, size, 0, 0, 0]) < 0 {
        return Value::Null;
    }
    json!({
        "policy": attr.policy, "flags": attr.flags, "nice": attr.nice, "priority": attr.priority,
        "runtime": attr.runtime, "deadline": attr.deadline, "period": attr.period,
    })
}

/// [class, level] of ioprio_get(2).
pub(crate) fn io_priority() -> Value {
    let value = call(libc::SYS_ioprio_get, [1, 0, 0, 0, 0, 0]);
    json!([value >> 13, value & 0x1fff])
}

/// [mode with flags, nodes] of get_mempolicy(2).
pub(crate) fn memory_policy() -> Value {
    let mut mode = 0_i32;
    let mut nodes = [0_u64; 16];
    let result = call(
        libc::SYS_get_mempolicy,
        [
            (&raw mut mode) as i64,
            nodes.as_mut_ptr() as i64,
            1024,
            0,
            0,
            0,
        ],
    );
    if result < 0 {
        json!(result)
    } else {
        json!([mode, nodes[0]])
    }
}

/// The description of the session keyring, or the negated errno.
pub(crate) fn session_keyring() -> Value {
    const KEYCTL_DESCRIBE: i64 = 6;
    of_session_keyring(KEYCTL_DESCRIBE)
}

/// Its security label.
pub(crate) fn session_keyring_label() -> Value {
    const KEYCTL_GET_SECURITY: i64 = 17;
    of_session_keyring(KEYCTL_GET_SECURITY)
}

fn of_session_keyring(question: i64) -> Value {
    const KEY_SPEC_SESSION_KEYRING: i64 = -3;
    let mut text = [0_u8; 256];
    let length = call(
        libc::SYS_keyctl,
        [
            question,
            KEY_SPEC_SESSION_KEYRING,
            text.as_mut_ptr() as i64,
            256,
            0,
            0,
        ],
    );
    match usize::try_from(length) {
        Ok(length) => json!(String::from_utf8_lossy(
            &text[..length.saturating_sub(1).min(255)]
        )),
        Err(_) => json!(length),
    }
}

/// fork(2), for the roles that need many children; the child runs nothing but async-signal-safe calls.
pub(crate) fn fork() -> i32 {
    // SAFETY: the probe has one thread, so the child may do whatever the parent could.
    unsafe { libc::fork() }
}

/// A cell for a pathname or a string as a system call argument.
pub(crate) fn c_string(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).unwrap_or_default()
}
