//! POSIX extended regular expressions of the C library (regcomp(3)): the ones crun's users write.
//!
//! Allocates, unlike the rest of this directory: never to be used between `clone3` and `execve`.

use std::ffi::{CStr, CString};
use std::mem::MaybeUninit;

/// A compiled expression. Boxed, since the C library may keep pointers into it.
#[derive(Debug)]
pub struct Pattern(Box<libc::regex_t>);

impl Pattern {
    /// Compiles an extended expression; what is wrong with it otherwise.
    pub fn compile(text: &CStr) -> Result<Self, String> {
        let mut compiled = Box::new(MaybeUninit::<libc::regex_t>::uninit());
        let flags = libc::REG_EXTENDED | libc::REG_NOSUB;
        // SAFETY: `compiled` has room for a regex_t, `text` ends with a NUL byte.
        let code = unsafe { libc::regcomp(compiled.as_mut_ptr(), text.as_ptr(), flags) };
        if code != 0 {
            return Err(describe(code, &compiled));
        }
        // SAFETY: regcomp returned 0, so it filled the structure in.
        Ok(Self(unsafe { compiled.assume_init() }))
    }

    /// Whether some part of the text matches.
    pub fn matches(&self, text: &CStr) -> bool {
        // SAFETY: the expression was compiled and not yet freed; no matches are to be stored, so
        // their pointer is not looked at (REG_NOSUB, and a count of 0).
        unsafe {
            libc::regexec(
                &raw const *self.0,
                text.as_ptr(),
                0,
                std::ptr::null_mut(),
                0,
            ) == 0
        }
    }
}

impl Drop for Pattern {
    fn drop(&mut self) {
        // SAFETY: compiled once, freed once, not used again.
        unsafe { libc::regfree(&raw mut *self.0) }
    }
}

fn describe(code: libc::c_int, compiled: &MaybeUninit<libc::regex_t>) -> String {
    let mut text = vec![0_u8; 128];
    // SAFETY: `text` has as many bytes as is said. The second argument is only looked at for
    // compiled expressions, and this is the one whose compilation gave `code`.
    unsafe {
        libc::regerror(
            code,
            compiled.as_ptr(),
            text.as_mut_ptr().cast(),
            text.len(),
        )
    };
    let text = CString::from_vec_with_nul(
        text.iter()
            .copied()
            .take_while(|b| *b != 0)
            .chain([0])
            .collect(),
    );
    text.unwrap_or_default().to_string_lossy().to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extended_expressions() {
        for (pattern, text, expected) in [
            (c"test-*", c"my-test", true),
            (c"^test-[0-9]+$", c"test-12", true),
            (c"^test-[0-9]+$", c"test-x", false),
            (c"a|b", c"xbx", true),
            (c"^(web|db)[.]", c"dbx", false),
        ] {
            let compiled = Pattern::compile(pattern).unwrap();
            assert_eq!(compiled.matches(text), expected, "{pattern:?} {text:?}");
        }
        for bad in [c"(", c"[a", c"a{2,1}"] {
            let error = Pattern::compile(bad).unwrap_err();
            assert!(!error.is_empty(), "{bad:?}");
        }
    }
}
