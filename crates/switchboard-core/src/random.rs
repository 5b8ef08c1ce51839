//! Randomness for names that must never come twice.

/// 128 bits from the operating system, so that what a program does to generators it seeds itself makes no difference.
///
/// # Panics
///
/// If the system has no randomness; a Rust program there could not make a `HashMap` either.
pub fn bits() -> u128 {
    let mut random = [0; 16];
    getrandom::fill(&mut random)
        .expect("a system without randomness has started no Rust program with a hash map");
    u128::from_ne_bytes(random)
}
