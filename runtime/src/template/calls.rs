//! System calls that a container may make, by what they are for. Data of [`super::seccomp`].

/// Allowed to all.
pub(super) const ALLOWED: [&str; 16] = [
    // Files and directories by name.
    "access chdir chmod chown chown32 creat faccessat faccessat2 fchdir fchmod fchmodat fchmodat2 fchown \
     fchown32 fchownat getcwd lchown lchown32 link linkat mkdir mkdirat mknod mknodat name_to_handle_at \
     open openat openat2 readlink readlinkat rename renameat renameat2 rmdir symlink symlinkat truncate \
     truncate64 umask unlink unlinkat",
    // What files are.
    "fstat fstat64 fstatat64 fstatfs fstatfs64 futimesat getdents getdents64 listmount lstat lstat64 \
     newfstatat stat stat64 statfs statfs64 statmount statx utime utimensat utimensat_time64 utimes \
     inotify_add_watch inotify_init inotify_init1 inotify_rm_watch fanotify_mark",
    // Extended attributes.
    "fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
     llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat",
    // Descriptors and their contents.
    "_llseek cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate \
     fcntl fcntl64 fdatasync flock fsync ftruncate ftruncate64 ioctl lseek pread64 preadv preadv2 pwrite64 \
     pwritev pwritev2 read readahead readv sendfile sendfile64 splice sync sync_file_range syncfs tee \
     vmsplice write writev",
    // Pipes, waiting for many descriptors, asynchronous transfers.
    "_newselect epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait \
     epoll_wait_old eventfd eventfd2 io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
     io_setup io_submit pipe pipe2 poll ppoll ppoll_time64 pselect6 pselect6_time64 select",
    // Sockets; which families, see `FAMILIES`.
    "accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
     recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair",
    // Memory.
    "brk madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 mlockall mmap \
     mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free pkey_mprotect \
     process_mrelease remap_file_pages",
    // Processes and threads; `clone` has conditions.
    "execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv \
     futex_wake get_robust_list get_thread_area getcpu getpgid getpgrp getpid getppid getsid gettid \
     pidfd_open prctl restart_syscall rseq seccomp set_robust_list set_thread_area set_tid_address setpgid \
     setsid vfork wait4 waitid waitpid",
    // Looking into processes of the same container: safe since Linux 4.8.
    "process_vm_readv process_vm_writev ptrace",
    // Signals.
    "alarm kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo \
     rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd \
     signalfd4 sigprocmask sigreturn tgkill tkill",
    // Users, groups and capabilities: capabilities decide about those.
    "capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid \
     getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32 setgid \
     setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 \
     setreuid setreuid32 setuid setuid32 landlock_add_rule landlock_create_ruleset landlock_restrict_self",
    // Time and timers; without CAP_SYS_TIME the first ones only read.
    "adjtimex clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 \
     clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time timer_create \
     timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
     timerfd_create timerfd_gettime timerfd_gettime64 timerfd_settime timerfd_settime64 times",
    // Limits, priorities, CPUs.
    "getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max \
     sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
     sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
     sched_setscheduler sched_yield setpriority setrlimit ugetrlimit",
    // System V and POSIX objects: of the ipc namespace.
    "ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
     mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
     semtimedop_time64 shmat shmctl shmdt shmget",
    // The system.
    "getrandom sysinfo uname",
    // Of some processors only, or made by the kernel itself.
    "riscv_hwprobe uretprobe",
];

/// Allowed on a processor.
pub(super) const OF_PROCESSOR: [(&str, &str); 5] = [
    ("x86_64", "arch_prctl modify_ldt"),
    (
        "aarch64",
        "arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    ("powerpc64", "swapcontext sync_file_range2"),
    (
        "s390x",
        "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr",
    ),
    ("riscv64", "riscv_flush_icache"),
];

/// Allowed with a capability.
pub(super) const OF_CAPABILITY: [(&str, &str); 14] = [
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    (
        "CAP_SYS_ADMIN",
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open \
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare",
    ),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    (
        "CAP_SYS_NICE",
        "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    ),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    (
        "CAP_SYS_TIME",
        "clock_settime clock_settime64 settimeofday stime",
    ),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
    ("CAP_SYSLOG", "syslog"),
];

/// Families that sockets may have (include/linux/socket.h). Not among them are those of the kernel's own
/// ciphers (38), of virtual machines' hosts (40), and some that nobody maintains.
pub(super) const FAMILIES: [u64; 38] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 14, 15, 16, 17, 18, 21, 22, 24, 26, 27, 28, 29, 30,
    31, 32, 33, 35, 36, 39, 41, 42, 43, 44, 45, 46,
];

/// What personality(2) may be set to: Linux, with its two uname variants, and only asked.
pub(super) const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];
