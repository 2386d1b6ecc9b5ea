//! The engine: decides everything and touches nothing. Bytes, events and `now` go in, bytes and requests come
//! out.
//!
//! [`replica`] is one failover group on this node. It keeps [`table`], hears and speaks [`wire`] sealed by
//! [`seal`], in the order of [`stream`], compared by [`digest`], and asks of the kernel what [`reconcile`]
//! says. [`filter`] and [`groups`] tell what an entry is worth and whose it is, [`facts`] what a node tells
//! its peers. [`witness`] says whom to believe about the role, [`verdict`] whether a failover now would lose
//! something, [`precheck`] what an operator should change. Called by the daemon and, with a virtual clock,
//! kernel and wire, by the simulation.

mod compact;
pub mod digest;
pub mod facts;
pub mod failure;
pub mod filter;
pub mod groups;
pub mod precheck;
pub mod reconcile;
pub mod replica;
pub mod seal;
pub mod stream;
pub mod table;
pub mod verdict;
pub mod wire;
pub mod witness;
