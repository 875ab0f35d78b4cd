//! A unified diff of texts, without the files' names.

/// How many lines around a change are shown.
const CONTEXT: usize = 3;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Edit {
    Keep(usize, usize),
    Delete(usize, usize),
    Insert(usize, usize),
}

/// The difference between two texts; every line ends with a newline.
pub(in super::super) fn unified(old: &str, new: &str) -> String {
    let (old, new): (Vec<&str>, Vec<&str>) = (old.lines().collect(), new.lines().collect());
    let edits = edits(&old, &new);
    let mut out = String::new();
    let mut start = 0;
    while let Some(first) = edits[start..].iter().position(|edit| !matches!(edit, Edit::Keep(..))) {
        let first = start + first;
        let mut last = first;
        for (index, edit) in edits.iter().enumerate().skip(first) {
            if index > last + 2 * CONTEXT + 1 {
                break;
            }
            if !matches!(edit, Edit::Keep(..)) {
                last = index;
            }
        }
        let hunk = &edits[first.saturating_sub(CONTEXT).max(start)..(last + CONTEXT + 1).min(edits.len())];
        write_hunk(hunk, &old, &new, &mut out);
        start = (last + CONTEXT + 1).min(edits.len());
    }
    out
}

fn write_hunk(hunk: &[Edit], old: &[&str], new: &[&str], out: &mut String) {
    let Some((old_start, new_start)) = hunk.first().map(|edit| match *edit {
        Edit::Keep(old, new) | Edit::Delete(old, new) | Edit::Insert(old, new) => (old, new),
    }) else {
        return;
    };
    let old_len = hunk.iter().filter(|edit| !matches!(edit, Edit::Insert(..))).count();
    let new_len = hunk.iter().filter(|edit| !matches!(edit, Edit::Delete(..))).count();
    out.push_str(&format!("@@ -{} +{} @@\n", range(old_start, old_len), range(new_start, new_len)));
    for edit in hunk {
        let (sign, line) = match *edit {
            Edit::Keep(old_index, _) => (' ', old[old_index]),
            Edit::Delete(old_index, _) => ('-', old[old_index]),
            Edit::Insert(_, new_index) => ('+', new[new_index]),
        };
        out.push(sign);
        out.push_str(line);
        out.push('\n');
    }
}

fn range(start: usize, len: usize) -> String {
    match len {
        0 => format!("{start},0"),
        1 => format!("{}", start + 1),
        len => format!("{},{len}", start + 1),
    }
}

/// The longest common lines stay; deletions come before insertions.
fn edits(old: &[&str], new: &[&str]) -> Vec<Edit> {
    let prefix = old.iter().zip(new).take_while(|(a, b)| a == b).count();
    let rest = old.len().min(new.len()) - prefix;
    let suffix = old.iter().rev().zip(new.iter().rev()).take(rest).take_while(|(a, b)| a == b).count();
    let (a, b) = (&old[prefix..old.len() - suffix], &new[prefix..new.len() - suffix]);
    // How many lines the rests of both have in common, from each pair of places on.
    let width = b.len() + 1;
    let mut common = vec![0_u32; (a.len() + 1) * width];
    for i in (0..a.len()).rev() {
        for j in (0..b.len()).rev() {
            common[i * width + j] = if a[i] == b[j] {
                common[(i + 1) * width + j + 1] + 1
            } else {
                common[(i + 1) * width + j].max(common[i * width + j + 1])
            };
        }
    }
    let mut edits: Vec<Edit> = (0..prefix).map(|index| Edit::Keep(index, index)).collect();
    let (mut i, mut j) = (0, 0);
    while i < a.len() || j < b.len() {
        let (at_old, at_new) = (prefix + i, prefix + j);
        if i < a.len() && j < b.len() && a[i] == b[j] {
            edits.push(Edit::Keep(at_old, at_new));
            (i, j) = (i + 1, j + 1);
        } else if i < a.len() && (j == b.len() || common[(i + 1) * width + j] >= common[i * width + j + 1]) {
            edits.push(Edit::Delete(at_old, at_new));
            i += 1;
        } else {
            edits.push(Edit::Insert(at_old, at_new));
            j += 1;
        }
    }
    edits.extend((0..suffix).map(|index| Edit::Keep(old.len() - suffix + index, new.len() - suffix + index)));
    edits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_shown_with_their_surroundings() {
        let old: String = (1..=20).map(|line| format!("{line}\n")).collect();
        let new = old.replace("10\n", "ten\n").replace("20\n", "");
        let shown = "@@ -7,7 +7,7 @@\n 7\n 8\n 9\n-10\n+ten\n 11\n 12\n 13\n@@ -17,4 +17,3 @@\n 17\n 18\n 19\n-20\n";
        assert_eq!(unified(&old, &new), shown);
        assert_eq!(unified("a\n", "b\n"), "@@ -1 +1 @@\n-a\n+b\n");
        assert_eq!(unified(&old, &old), "");
    }
}
