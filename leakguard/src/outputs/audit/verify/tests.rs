use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// A log of that many lines, line by line without newlines.
fn log(lines: usize) -> Vec<Vec<u8>> {
    let mut head = Head::default();
    (0..lines)
        .map(|number| {
            let mut line = Vec::new();
            head.add_entry(&format!(r#"{{"seq":{number},"text":"a \" b"}}"#), &mut line);
            line.pop();
            line
        })
        .collect()
}

fn joined(lines: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = lines.join(&b'\n');
    bytes.push(b'\n');
    bytes
}

fn examined(bytes: &[u8]) -> Report {
    examine(bytes, None).unwrap()
}

fn found(lines: &[Vec<u8>]) -> Vec<(u64, ProblemKind)> {
    let report = examined(&joined(lines));
    assert_eq!(report.intact, report.problems.is_empty());
    report
        .problems
        .iter()
        .map(|problem| (problem.at, problem.kind))
        .collect()
}

#[test]
fn a_log_as_it_was_written_is_intact() {
    let report = examined(&joined(&log(5)));
    assert!(report.intact, "{report:?}");
    assert_eq!((report.lines, report.last.line, report.torn), (5, 5, 0));
    assert_eq!(report.continues, None);
}

#[test]
fn each_kind_of_change_is_named_with_its_line() {
    let log = log(6);
    let mut changed = log.clone();
    changed[2][30] ^= 1;
    assert_eq!(found(&changed), [(3, ProblemKind::Changed)]);
    let mut removed = log.clone();
    removed.remove(2);
    assert_eq!(found(&removed), [(3, ProblemKind::Missing)]);
    let mut beheaded = log.clone();
    beheaded.drain(..2);
    assert_eq!(found(&beheaded), [(1, ProblemKind::Missing)]);
    let mut repeated = log.clone();
    repeated.insert(3, log[2].clone());
    assert_eq!(found(&repeated), [(4, ProblemKind::OutOfPlace)]);
    let mut inserted = log.clone();
    inserted.insert(3, b"{\"line\":4}".to_vec());
    assert_eq!(found(&inserted), [(4, ProblemKind::Changed)]);
    let mut swapped = log.clone();
    swapped.swap(1, 2);
    assert_eq!(
        found(&swapped),
        [(2, ProblemKind::Missing), (3, ProblemKind::OutOfPlace)]
    );
}

#[test]
fn a_line_that_was_made_anew_does_not_fit_the_next() {
    let mut log = log(6);
    let mut head = Line::read(&log[1]).unwrap().head;
    let mut forged = Vec::new();
    head.add_entry("{\"seq\":99}", &mut forged);
    forged.pop();
    log[2] = forged;
    assert_eq!(found(&log), [(4, ProblemKind::Replaced)]);
}

#[test]
fn an_end_that_was_cut_off_is_found_by_its_hash_only() {
    let log = log(6);
    let last = Line::read(&log[5]).unwrap().head.hash;
    let whole = joined(&log);
    assert!(examine(&whole[..], Some(last)).unwrap().intact);
    let cut = joined(&log[..4]);
    assert!(examined(&cut).intact);
    let report = examine(&cut[..], Some(last)).unwrap();
    assert_eq!(report.problems[0].kind, ProblemKind::OtherEnd);
    assert!(report.problems[0].message.contains("not in the file"));
    let fourth = Line::read(&log[3]).unwrap().head.hash;
    let report = examine(&whole[..], Some(fourth)).unwrap();
    assert!(report.problems[0].message.contains("2 more"), "{report:?}");
}

/// What an agent writes that finds the log cut in its last line.
fn resumed(log: &[Vec<u8>], cut: usize) -> Vec<u8> {
    let (last, before) = log.split_last().unwrap();
    let mut bytes = joined(before);
    let torn = &last[..cut];
    bytes.extend_from_slice(torn);
    bytes.push(b'\n');
    let mut head = Line::read(before.last().unwrap()).unwrap().head;
    head.add_torn(Torn::of(torn), &mut bytes);
    head.add_entry("{}", &mut bytes);
    bytes
}

#[test]
fn a_line_that_a_crash_has_cut_is_accounted_for() {
    let log = log(4);
    for cut in 1..log[3].len() {
        let report = examined(&resumed(&log, cut));
        assert!(report.intact, "{cut}: {report:?}");
        assert_eq!((report.torn, report.lines, report.last.line), (1, 6, 5));
    }
}

#[test]
fn a_first_line_that_a_crash_has_cut_is_accounted_for() {
    let torn = &log(1)[0][..20];
    let mut bytes = torn.to_vec();
    bytes.push(b'\n');
    Head::default().add_torn(Torn::of(torn), &mut bytes);
    let report = examined(&bytes);
    assert!(report.intact && report.torn == 1, "{report:?}");
}

#[test]
fn a_last_line_that_was_changed_stays_found_when_the_log_goes_on() {
    let mut lines = log(3);
    lines[2][40] ^= 1;
    let mut head = Line::read(&lines[1]).unwrap().head;
    let mut bytes = joined(&lines);
    for _ in 0..3 {
        head.add_entry("{}", &mut bytes);
    }
    let report = examined(&bytes);
    let found: Vec<_> = report
        .problems
        .iter()
        .map(|problem| (problem.at, problem.kind))
        .collect();
    assert_eq!(found, [(3, ProblemKind::Changed)]);
}

#[test]
fn a_file_that_goes_on_from_another_says_so() {
    let mut bytes = Vec::new();
    let mut head = Head {
        line: 0,
        hash: Hash::of(b"before"),
    };
    head.add_entry("{}", &mut bytes);
    let report = examined(&bytes);
    assert!(report.intact);
    assert_eq!(report.continues, Some(Hash::of(b"before")));
}

#[test]
fn what_is_no_log_is_said_to_be_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let error = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        verify(&path, None).unwrap_err()
    };
    assert!(matches!(error(b""), VerifyError::Empty { .. }));
    assert!(matches!(
        error(b"hello\nworld\n"),
        VerifyError::NotALog { .. }
    ));
    assert!(matches!(
        error(&vec![b'x'; 3 << 20]),
        VerifyError::NotALog { .. }
    ));
    let absent = verify(&directory.path().join("absent"), None).unwrap_err();
    assert!(matches!(absent, VerifyError::Read { .. }));
    let no_file = verify(directory.path(), None).unwrap_err();
    assert!(matches!(no_file, VerifyError::Read { .. }));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_byte_that_is_changed_is_found(lines in 1_usize..8, line: Index, at: Index, change in 1_u8..) {
        let mut log = log(lines);
        let line = line.index(lines);
        let at = at.index(log[line].len());
        log[line][at] ^= change;
        let report = examined(&joined(&log));
        prop_assert!(!report.intact);
        // A newline that was put in makes two lines of one.
        let named = report.problems[0].at;
        prop_assert!(named == line as u64 + 1, "{named}");
    }

    #[test]
    fn any_byte_that_is_removed_or_added_is_found(
        lines in 1_usize..8, line: Index, at: Index, added: Option<u8>
    ) {
        let original = log(lines);
        let mut log = original.clone();
        let line = line.index(lines);
        let at = at.index(log[line].len());
        match added {
            Some(byte) => log[line].insert(at, byte),
            None => { log[line].remove(at); }
        }
        let report = examined(&joined(&log));
        prop_assert!(!report.intact);
        prop_assert_eq!(report.problems[0].at, line as u64 + 1);
    }

    #[test]
    fn any_line_but_the_last_that_is_removed_is_found(lines in 2_usize..9, line: Index) {
        let mut log = log(lines);
        let line = line.index(lines - 1);
        log.remove(line);
        prop_assert_eq!(found(&log), [(line as u64 + 1, ProblemKind::Missing)]);
    }

    #[test]
    fn any_two_lines_that_change_places_are_found(lines in 2_usize..9, first: Index, second: Index) {
        let mut log = log(lines);
        let (first, second) = (first.index(lines), second.index(lines));
        prop_assume!(first != second);
        log.swap(first, second);
        let problems = found(&log);
        prop_assert_eq!(problems[0].0, first.min(second) as u64 + 1);
    }

    #[test]
    fn any_line_that_is_put_in_is_found(lines in 2_usize..9, at: Index, from: Index) {
        let mut log = log(lines);
        let at = at.index(lines + 1);
        let line = log[from.index(lines)].clone();
        log.insert(at, line);
        // The same line behind itself: either is the one that was put in.
        let problems = found(&log);
        prop_assert!(!problems.is_empty());
        prop_assert!(problems[0].0 >= at as u64, "{problems:?}");
    }

    #[test]
    fn a_change_of_a_closed_crash_is_found(cut: Index, at: Index, change in 1_u8..) {
        let log = log(4);
        let cut = 1 + cut.index(log[3].len() - 1);
        let mut bytes = resumed(&log, cut);
        let at = at.index(bytes.len());
        bytes[at] ^= change;
        prop_assert!(!examined(&bytes).intact);
    }

    #[test]
    fn no_file_makes_it_panic(bytes: Vec<u8>) {
        examined(&bytes);
    }
}
