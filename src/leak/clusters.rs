//! Clusters: rows that hang together by pairs.
//!
//! Being alike is not transitive: the ends of a long chain may have nothing in common. So a cluster
//! tells how many of its pairs are known, and the least similarity among them.

use crate::leak::leaks::Leaks;

/// Rows that hang together by pairs.
#[derive(Debug, Clone, PartialEq)]
pub struct Cluster {
    /// Split and row of each, ascending; at least two.
    pub rows: Vec<(usize, usize)>,
    /// Listed pairs of these rows.
    pub pairs: usize,
    /// The least similarity among these pairs.
    pub similarity: f64,
}

/// The clusters of all pairs, by their first rows.
pub fn clusters(leaks: &Leaks) -> Vec<Cluster> {
    let starts: Vec<usize> = (0..leaks.splits())
        .scan(0, |end, split| Some(std::mem::replace(end, *end + leaks.rows(split))))
        .collect();
    let number = |(split, row): (usize, usize)| starts[split] + row;
    let rows: usize = (0..leaks.splits()).map(|split| leaks.rows(split)).sum();
    let pairs = || (0..leaks.len()).filter_map(|index| leaks.get(index));

    // Each row points to an earlier one of its cluster, the first one to itself.
    let mut first: Vec<u32> = (0..rows as u32).collect();
    for pair in pairs() {
        let (a, b) = (find(&mut first, number(pair.left)), find(&mut first, number(pair.right)));
        first[a.max(b)] = a.min(b) as u32;
    }
    let mut place: Vec<Option<u32>> = vec![None; rows];
    let mut clusters: Vec<Cluster> = Vec::new();
    for pair in pairs() {
        // Pairs come by their left rows, so the first pair of a cluster has its first row.
        let root = find(&mut first, number(pair.left));
        let at = *place[root].get_or_insert_with(|| {
            clusters.push(Cluster { rows: Vec::new(), pairs: 0, similarity: 1.0 });
            clusters.len() as u32 - 1
        });
        let cluster = &mut clusters[at as usize];
        cluster.pairs += 1;
        cluster.similarity = cluster.similarity.min(pair.similarity);
    }
    for (split, &start) in starts.iter().enumerate() {
        for row in 0..leaks.rows(split) {
            if let Some(at) = place[find(&mut first, start + row)] {
                clusters[at as usize].rows.push((split, row));
            }
        }
    }
    clusters
}

fn find(first: &mut [u32], row: usize) -> usize {
    let mut row = row as u32;
    while first[row as usize] != row {
        first[row as usize] = first[first[row as usize] as usize]; // paths become half as long
        row = first[row as usize];
    }
    row as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::leak::column::Column;
    use crate::leak::leaks::Options;
    use crate::leak::shingle::TextOptions;

    fn found(splits: &[Vec<Option<&str>>], near: f64) -> Leaks {
        let columns: Vec<&dyn Column> = splits.iter().map(|s| s as &dyn Column).collect();
        let options = Options::new(Some(near), true, true).unwrap();
        let text = TextOptions { ngram: 1, ..TextOptions::default() };
        Leaks::in_texts::<Error>(&columns, text, None, options, &mut |_, _, _| Ok(())).unwrap()
    }

    #[test]
    fn a_chain_is_one_cluster_that_says_how_weak_it_is() {
        // Neighbours share three of five words, the ends share one of seven.
        let texts = ["a b c d", "b c d e", "c d e f", "x y", "X, y!"].map(Some);
        let leaks = found(&[texts[..2].to_vec(), texts[2..].to_vec(), vec![Some("z")]], 0.6);
        let chain = Cluster { rows: vec![(0, 0), (0, 1), (1, 0)], pairs: 2, similarity: 0.6 };
        let copies = Cluster { rows: vec![(1, 1), (1, 2)], pairs: 1, similarity: 1.0 };
        assert_eq!(clusters(&leaks), [chain, copies]);
    }

    #[test]
    fn every_paired_row_is_in_one_cluster() {
        let texts: Vec<String> =
            (0..60).map(|i| format!("w{} w{} w{}", i % 7, i % 5, i % 3)).collect();
        let split: Vec<Option<&str>> = texts.iter().map(|t| Some(t.as_str())).collect();
        let leaks = found(&[split], 0.4);
        let all = clusters(&leaks);
        assert_eq!(all.iter().map(|c| c.pairs).sum::<usize>(), leaks.len());
        for leak in (0..leaks.len()).filter_map(|i| leaks.get(i)) {
            let of = |row| all.iter().position(|c| c.rows.contains(&row));
            assert_eq!(of(leak.left), of(leak.right));
            assert!(of(leak.left).is_some());
        }
    }
}
