//! Large numbers, as far as files of keys leave something to be computed: OpenSSH's have no exponents for
//! the two primes. Done once for each key, by whoever owns it.

use rcrun_runtime::error::{Error, Result};

/// `number` modulo `prime - 1`, most significant byte first.
pub(super) fn remainder(number: &[u8], prime: &[u8]) -> Result<Vec<u8>> {
    let mut modulus = prime.to_vec();
    match modulus.last_mut() {
        // Odd, as all primes of keys are.
        Some(last) if *last & 1 == 1 => *last -= 1,
        _ => return Err(Error::invalid("malformed RSA private key")),
    }
    if modulus.iter().all(|byte| *byte == 0) {
        return Err(Error::invalid("malformed RSA private key"));
    }
    // One byte more than the modulus: twice what is less than that fits.
    modulus.insert(0, 0);
    let mut rest = vec![0; modulus.len()];
    for bit in number
        .iter()
        .flat_map(|byte| (0..8).rev().map(move |at| byte >> at & 1))
    {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let next = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = next;
        }
        if rest >= modulus {
            subtract(&mut rest, &modulus);
        }
    }
    let zeros = rest.iter().take_while(|byte| **byte == 0).count();
    Ok(rest.split_off(zeros))
}

fn subtract(from: &mut [u8], what: &[u8]) {
    let mut borrow = false;
    for (a, b) in from.iter_mut().rev().zip(what.iter().rev()) {
        let (first, under) = a.overflowing_sub(*b);
        let (second, again) = first.overflowing_sub(u8::from(borrow));
        (*a, borrow) = (second, under || again);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_the_machine_computes_it() {
        let bytes = |number: u128| {
            let bytes = number.to_be_bytes();
            let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
            bytes[zeros..].to_vec()
        };
        let mut state = 0x9e37_79b9_7f4a_7c15_u128;
        for _ in 0..2000 {
            state = state
                .wrapping_mul(0x2360_ed05_1fc6_5da4_4385_df64_9fcc_f645)
                .wrapping_add(1);
            let (number, prime) = (state, (state >> 61 | 3).rotate_left(3) | 1);
            let prime = prime >> (state as u32 & 31) | 3;
            assert_eq!(
                remainder(&bytes(number), &bytes(prime)).unwrap(),
                bytes(number % (prime - 1)),
                "{number} {prime}"
            );
        }
        for wrong in [&[][..], &[0], &[1], &[0, 1], &[4]] {
            remainder(&[5], wrong).unwrap_err();
        }
    }
}
