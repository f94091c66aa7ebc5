//! Stable hashes: the same on every machine, in every version, so that names, MACs and addresses derived from them
//! survive an upgrade. Not for secrets.

use std::hash::{Hash, Hasher};

/// FNV-1a over bytes, finished with the splitmix64 avalanche so that every bit depends on every byte.
#[derive(Clone, Debug)]
pub struct Stable(u64);

impl Default for Stable {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for Stable {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn finish(&self) -> u64 {
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }
}

/// Hash of some words; the boundary between words counts, so `("a", "bc")` differs from `("ab", "c")`.
pub fn words(words: &[&str]) -> u64 {
    let mut hasher = Stable::default();
    for word in words {
        hasher.write(word.as_bytes());
        hasher.write(&[0]);
    }
    hasher.finish()
}

/// Hash of a value as its `Hash` implementation feeds it.
pub fn of(value: &impl Hash) -> u64 {
    let mut hasher = Stable::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The upper 50 bits of a hash as ten lower-case base-32 characters of ASCII (digits and letters without e, i, o and u):
/// what follows the prefix in the interface names that netrec makes up.
pub fn short_name(hash: u64) -> [u8; 10] {
    const ALPHABET: &[u8; 32] = b"0123456789abcdfghjklmnpqrstvwxyz";
    std::array::from_fn(|digit| ALPHABET[(hash >> (59 - 5 * digit)) as usize & 31])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values_never_change() {
        assert_eq!(words(&["shop", "api-front"]), words(&["shop", "api-front"]));
        assert_ne!(words(&["a", "bc"]), words(&["ab", "c"]));
        assert_eq!(&short_name(u64::MAX), b"zzzzzzzzzz");
        assert_eq!(&short_name(words(&["shop", "api-front"])), b"zyn34472sm");
    }

    #[test]
    fn ten_thousand_names_do_not_collide() {
        let names: std::collections::BTreeSet<[u8; 10]> =
            (0..10_000).map(|n| short_name(words(&["topology", &format!("a-long-shared-prefix-{n}")]))).collect();
        assert_eq!(names.len(), 10_000);
    }
}
