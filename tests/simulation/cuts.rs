//! Between which nodes the wire is cut.

/// Pairs of nodes that do not hear each other.
#[derive(Clone, Debug)]
pub(crate) struct Cuts {
    pairs: Vec<(usize, usize)>,
}

impl Cuts {
    pub(crate) fn none() -> Cuts {
        Cuts { pairs: Vec::new() }
    }

    fn all(nodes: usize, cut: impl Fn(usize, usize) -> bool) -> Cuts {
        let pairs = (0..nodes).flat_map(|x| (0..nodes).map(move |y| (x, y)));
        Cuts { pairs: pairs.filter(|(x, y)| x != y && cut(*x, *y)).collect() }
    }

    /// Nobody hears anybody.
    pub(crate) fn everywhere(nodes: usize) -> Cuts {
        Cuts::all(nodes, |_, _| true)
    }

    /// One node and all others do not hear each other.
    pub(crate) fn around(nodes: usize, node: usize) -> Cuts {
        Cuts::all(nodes, |x, y| x == node || y == node)
    }

    /// Two nodes do not hear each other; everybody else hears both.
    pub(crate) fn between(nodes: usize, a: usize, b: usize) -> Cuts {
        Cuts::all(nodes, |x, y| (x, y) == (a, b) || (x, y) == (b, a))
    }

    pub(crate) fn any(&self) -> bool {
        !self.pairs.is_empty()
    }

    pub(crate) fn cuts(&self, from: usize, to: usize) -> bool {
        self.pairs.contains(&(from, to))
    }
}
