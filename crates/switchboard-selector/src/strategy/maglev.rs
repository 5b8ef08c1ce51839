use std::sync::Once;

use xxhash_rust::xxh3::xxh3_128;

use super::weights::in_turn;
use super::{Context, Picker, Strategy};
use crate::Candidate;

/// Primes just below powers of two (and one just above): sizes for the table.
const SIZES: [usize; 9] =
    [65_537, 131_071, 262_139, 524_287, 1_048_573, 2_097_143, 4_194_301, 8_388_593, 16_777_213];

/// The table has at least so many places for each candidate, as far as the sizes go.
const PLACES: usize = 26;

/// Requests of one key go to one instance; when one of n leaves, little more than its own 1/n of the keys move.
///
/// By Maglev hashing: D. Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016
/// §3.4. A pick is one table read. Shares follow the weights. Clients that know the same instances (by id) at the same
/// weights send a key to the same one. The key comes with [`Request::key`](crate::Request::key); a pick without one is
/// random, and the first in the process is warned of. Slow start does not apply.
///
/// The table has 65,537 places, as Envoy's, or the next larger prime that gives each instance 26.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ConsistentHash;

impl Strategy for ConsistentHash {
    fn picker(&self, candidates: &[Candidate]) -> Box<dyn Picker> {
        let ids = candidates.iter().map(|candidate| candidate.instance().id().as_str());
        let weights: Vec<u32> = candidates.iter().map(Candidate::weight).collect();
        let table = table(ids, &weights);
        // Half the memory where it will do: a table in the cache is what makes a pick fast.
        if u16::try_from(candidates.len()).is_ok() {
            #[allow(clippy::cast_possible_truncation)] // checked
            return Box::new(Table(table.iter().map(|&owner| owner as u16).collect()));
        }
        Box::new(Table(table))
    }

    fn allows_slow_start(&self) -> bool {
        false
    }
}

struct Table<T>(Box<[T]>);

impl<T: Copy + Into<u32> + Send + Sync> Picker for Table<T> {
    #[inline]
    #[allow(clippy::cast_possible_truncation)] // less than the size of the table
    fn pick(&self, _: &[Candidate], context: &Context<'_>) -> usize {
        let hash = context.key().unwrap_or_else(|| without_key(context));
        let place = (u128::from(hash) * self.0.len() as u128) >> 64;
        self.0[place as usize].into() as usize
    }
}

/// A place at random, and a word of it the first time.
#[cold]
fn without_key(context: &Context<'_>) -> u64 {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| {
        tracing::warn!("picks by consistent hash without a key are random; give each request its key");
    });
    context.random()
}

const FREE: u32 = u32::MAX;

#[allow(clippy::cast_possible_truncation)] // candidates are far fewer than 2^32
fn table<'a>(ids: impl ExactSizeIterator<Item = &'a str>, weights: &[u32]) -> Box<[u32]> {
    let wanted = ids.len() * PLACES;
    let size = SIZES.into_iter().find(|&size| size >= wanted).unwrap_or(SIZES[SIZES.len() - 1]);
    // A candidate's order of places: all of them, from a start and by a step of its own.
    let order = |id: &str| {
        let hash = xxh3_128(id.as_bytes());
        let (low, high) = (hash as u64, (hash >> 64) as u64);
        ((low % size as u64) as usize, (high % (size as u64 - 1)) as usize + 1)
    };
    let mut orders: Vec<(usize, usize)> = ids.map(order).collect();
    let mut table = vec![FREE; size];
    // One place each, and the others by weight.
    let owners = (0..weights.len() as u32).chain(in_turn(weights, 1));
    for owner in owners.take(size) {
        let (place, step) = &mut orders[owner as usize];
        while table[*place] != FREE {
            *place += *step;
            if *place >= size {
                *place -= size;
            }
        }
        table[*place] = owner;
    }
    table.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(weights: &[u32]) -> Vec<u32> {
        let ids: Vec<String> = (0..weights.len()).map(|index| format!("instance-{index}")).collect();
        let mut counts = vec![0; weights.len()];
        for owner in table(ids.iter().map(String::as_str), weights) {
            counts[owner as usize] += 1;
        }
        counts
    }

    #[test]
    fn shares_follow_the_weights_however_extreme() {
        assert_eq!(counts(&[7, 7, 7]), [21_846, 21_846, 21_845]);
        assert_eq!(counts(&[5, 1, 1]), [46_813, 9_362, 9_362]);
        assert_eq!(counts(&[65_535, 1]), [65_536, 1]);
        let mut weights = vec![1; 10_000];
        assert!(counts(&weights).iter().all(|count| (26..=27).contains(count)));
        weights[17] = 65_535;
        let counts = counts(&weights);
        assert!(counts.iter().all(|&count| count > 0));
        assert_eq!(counts.iter().sum::<u32>(), 262_139);
        assert!(counts[17] > 200_000, "{}", counts[17]);
    }
}
